// SPDX-License-Identifier: Apache-2.0
//! What an image says is to be run, and how that and what was typed become one command.
//!
//! Pure. The words are the image's and hostile: they reach the guest as they are and never
//! name anything of the host. Users and groups stay words here: the agent resolves them in
//! the image's own files, inside the machine.

use super::manifest::Unfit;
use oci_spec::image::Config;
use serde::Serialize;
use std::collections::BTreeMap;

/// Most bytes of all words together. Stops a configuration from being more than a Linux
/// command line can be (ARG_MAX is 2 MiB, a quarter of the stack).
const MAX_WORDS: usize = 2 << 20;

/// Most variables. Stops two megabytes of them from being compared with each other.
const MAX_VARIABLES: usize = 4096;

/// Most volumes, and most ports. Each is a mount of the guest or a socket of the host; stops
/// a configuration of 4 MiB from being a hundred thousand of them.
const MAX_DECLARED: usize = 256;

/// Longest path of a volume (PATH_MAX, without its end).
const MAX_PATH: usize = 4095;

/// Most bytes of all labels, and of all volumes: they are written down with every machine.
const MAX_SAID: usize = 512 << 10;

/// The execution parameters of an image (image-spec, config.md). Empty for an image that
/// is a bare file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImageConfig {
    /// When the image was made, as it says itself (RFC 3339).
    pub created: Option<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// `USER[:GROUP]`, names or numbers; empty is root.
    pub user: String,
    /// Empty is `/`.
    pub working_dir: String,
    /// `80/tcp` each, in order.
    pub exposed_ports: Vec<String>,
    /// As written: `SIGTERM`, `TERM` or `15`.
    pub stop_signal: Option<String>,
    /// Directories the service writes to, in order.
    pub volumes: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

/// What was typed instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Typed<'a> {
    /// Some of an empty word takes the image's entry point away.
    pub entrypoint: Option<&'a [u8]>,
    /// Empty: what the image says.
    pub command: Vec<&'a [u8]>,
    /// Name and value.
    pub env: Vec<(&'a [u8], &'a [u8])>,
    pub user: Option<&'a str>,
    pub working_dir: Option<&'a str>,
}

/// What the guest is to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Empty: nobody said what to run.
    pub argv: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
    pub user: String,
    pub cwd: Vec<u8>,
}

impl ImageConfig {
    pub fn of(config: Option<&Config>, created: Option<String>) -> Result<Self, Unfit> {
        let Some(config) = config else {
            return Ok(Self {
                created,
                ..Self::default()
            });
        };
        let sorted = |list: &Option<Vec<String>>| {
            let mut list = list.clone().unwrap_or_default();
            list.sort();
            list
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let found = Self {
            created,
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            user: text(config.user()),
            working_dir: text(config.working_dir()),
            exposed_ports: sorted(config.exposed_ports()),
            stop_signal: config
                .stop_signal()
                .clone()
                .filter(|signal| !signal.is_empty()),
            volumes: sorted(config.volumes()),
            labels: config
                .labels()
                .clone()
                .unwrap_or_default()
                .into_iter()
                .collect(),
        };
        found.check()?;
        Ok(found)
    }

    fn check(&self) -> Result<(), Unfit> {
        let words = || self.entrypoint.iter().chain(&self.cmd).chain(&self.env);
        if words().map(|word| word.len() + 1).sum::<usize>() > MAX_WORDS {
            return Err(Unfit::Config("has words of more than 2 MiB"));
        }
        if self.env.len() > MAX_VARIABLES {
            return Err(Unfit::Config("has more than 4096 variables"));
        }
        let mut all = words().chain([&self.user, &self.working_dir]);
        if all.any(|word| word.contains('\0')) {
            return Err(Unfit::Config("has a NUL in a word"));
        }
        if !self.working_dir.is_empty() && !self.working_dir.starts_with('/') {
            return Err(Unfit::Config(
                "has a working directory that does not start with '/'",
            ));
        }
        self.check_declared()?;
        let names = |pair: &String| {
            pair.split_once('=')
                .is_some_and(|(name, _)| !name.is_empty())
        };
        if !self.env.iter().all(names) {
            return Err(Unfit::Config("has a variable that is not NAME=value"));
        }
        Ok(())
    }

    fn check_declared(&self) -> Result<(), Unfit> {
        if self.volumes.len() > MAX_DECLARED || self.exposed_ports.len() > MAX_DECLARED {
            return Err(Unfit::Config("has more than 256 volumes or ports"));
        }
        if self
            .volumes
            .iter()
            .any(|path| path.contains('\0') || path.len() > MAX_PATH)
        {
            return Err(Unfit::Config("has a volume that is no path of Linux"));
        }
        let labels = self.labels.iter().flat_map(|(key, value)| [key, value]);
        let said = labels.chain(&self.volumes).chain(&self.exposed_ports);
        match said.map(|word| word.len()).sum::<usize>() > MAX_SAID {
            true => Err(Unfit::Config("has labels of more than 512 KiB")),
            false => Ok(()),
        }
    }

    /// As `docker run` has it: an entry point typed takes the image's command away too, a
    /// command typed takes its place, and a variable typed replaces the image's.
    pub fn process(&self, typed: &Typed) -> Process {
        let words = |words: &[String]| words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let mut argv: Vec<Vec<u8>> = match typed.entrypoint {
            Some(b"") => Vec::new(),
            Some(entrypoint) => vec![entrypoint.to_vec()],
            None => words(&self.entrypoint),
        };
        if !typed.command.is_empty() {
            argv.extend(typed.command.iter().map(|word| word.to_vec()));
        } else if typed.entrypoint.is_none() {
            argv.extend(words(&self.cmd));
        }
        let mut env: Vec<Vec<u8>> = Vec::new();
        let image = self.env.iter().map(|pair| pair.as_bytes().to_vec());
        let own = typed
            .env
            .iter()
            .map(|(name, value)| [name, &b"="[..], value].concat());
        for pair in image.chain(own) {
            let name = |pair: &[u8]| pair.iter().position(|&byte| byte == b'=');
            let end = name(&pair).map_or(pair.len(), |at| at + 1);
            match env.iter_mut().find(|known| known.starts_with(&pair[..end])) {
                Some(known) => *known = pair,
                None => env.push(pair),
            }
        }
        Process {
            argv,
            env,
            user: typed.user.unwrap_or(&self.user).to_owned(),
            cwd: typed
                .working_dir
                .unwrap_or(&self.working_dir)
                .as_bytes()
                .to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nginx() -> ImageConfig {
        let words = |words: &[&str]| words.iter().map(|&word| word.into()).collect();
        ImageConfig {
            entrypoint: words(&["/entry"]),
            cmd: words(&["nginx", "-g"]),
            env: words(&["PATH_INFO=x", "PATH=/bin"]),
            user: "nginx".into(),
            working_dir: "/srv".into(),
            ..ImageConfig::default()
        }
    }

    fn argv(typed: &Typed) -> String {
        let words = nginx().process(typed).argv;
        String::from_utf8(words.join(&b' ')).unwrap()
    }

    #[test]
    fn what_is_typed_comes_before_what_the_image_says() {
        let mut typed = Typed::default();
        assert_eq!(argv(&typed), "/entry nginx -g");
        typed.command = vec![b"sh", b"-c"];
        assert_eq!(argv(&typed), "/entry sh -c");
        typed.entrypoint = Some(b"/bin/x");
        assert_eq!(argv(&typed), "/bin/x sh -c");
        typed.command.clear();
        assert_eq!(argv(&typed), "/bin/x");
        typed.entrypoint = Some(b"");
        assert_eq!(argv(&typed), "");
        let process = nginx().process(&Typed::default());
        assert_eq!(
            (process.user.as_str(), &process.cwd[..]),
            ("nginx", &b"/srv"[..])
        );
        typed.user = Some("0:5");
        typed.working_dir = Some("/");
        let process = nginx().process(&typed);
        assert_eq!(
            (process.user.as_str(), &process.cwd[..]),
            ("0:5", &b"/"[..])
        );
    }

    #[test]
    fn a_variable_is_replaced_where_it_stands() {
        let typed = Typed {
            env: vec![(b"PATH", b"/new=1"), (b"A", b""), (b"A", b"2")],
            ..Typed::default()
        };
        let env = nginx().process(&typed).env;
        assert_eq!(env, [&b"PATH_INFO=x"[..], b"PATH=/new=1", b"A=2"]);
    }

    #[test]
    fn words_no_guest_could_take_are_refused() {
        let with = |change: fn(&mut ImageConfig)| {
            let mut config = nginx();
            change(&mut config);
            config.check()
        };
        assert_eq!(with(|_| {}), Ok(()));
        for change in [
            (|c| c.cmd.push("\0".into())) as fn(&mut ImageConfig),
            |c| c.user.push('\0'),
            |c| c.working_dir = "srv".into(),
            |c| c.env.push("A".into()),
            |c| c.env.push("=A".into()),
            |c| c.cmd.push("x".repeat(MAX_WORDS)),
            |c| c.volumes.push("/a\0".into()),
            |c| c.volumes.push("/".repeat(MAX_PATH + 1)),
            |c| c.volumes = vec!["/v".into(); MAX_DECLARED + 1],
            |c| c.exposed_ports = vec!["80/tcp".into(); MAX_DECLARED + 1],
            |c| drop(c.labels.insert("a".into(), "x".repeat(MAX_SAID))),
        ] {
            assert!(matches!(with(change), Err(Unfit::Config(_))));
        }
    }
}
