// SPDX-License-Identifier: Apache-2.0
//! Names of images in registries: `nginx`, `ghcr.io/org/app:1.2`, `app@sha256:…`.
//!
//! Pure. The grammar is that of the distribution project's `reference` package, with
//! Docker's defaults: no host means docker.io, no folder there `library`, no tag `latest`.

use super::digest::Digest;
use std::fmt;

const DEFAULT_HOST: &str = "docker.io";
const DEFAULT_FOLDER: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// Longest name of a repository, host included (distribution's `RepositoryNameTotalLengthMax`).
const MAX_REPOSITORY: usize = 255;
/// Longest tag (distribution-spec, "Pulling manifests").
const MAX_TAG: usize = 128;

/// An image of a registry, complete: every default is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// With its port, if it has one.
    pub host: String,
    pub repository: String,
    /// None only where there is a digest.
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl Name {
    /// None for what is no name.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (host, rest) = match rest.split_once('/') {
            Some((first, rest)) if is_host(first) => (first, rest),
            _ => (DEFAULT_HOST, rest),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_HOST,
            host => host,
        };
        let repository = match host == DEFAULT_HOST && !path.contains('/') {
            true => format!("{DEFAULT_FOLDER}/{path}"),
            false => path.to_owned(),
        };
        let fits = valid_host(host)
            && path.split('/').all(valid_component)
            && tag.is_none_or(valid_tag)
            && host.len() + 1 + repository.len() <= MAX_REPOSITORY;
        fits.then(|| Self {
            host: host.to_owned(),
            repository,
            tag: match (tag, digest) {
                (None, None) => Some(DEFAULT_TAG.to_owned()),
                (tag, _) => tag.map(str::to_owned),
            },
            digest,
        })
    }

    /// What a registry is asked for: the digest decides where both are given.
    pub fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// As people write it: without what would be filled in. Never ambiguous.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        let short = match short.strip_prefix("library/") {
            Some(name) if short.len() < full.len() => name,
            _ => short,
        };
        match Self::parse(short).as_ref() == Some(self) {
            true => short.to_owned(),
            false => full,
        }
    }
}

/// Complete, and one text for one image: the store's key.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Is the first component a host, and not a folder of docker.io?
fn is_host(text: &str) -> bool {
    text.contains(['.', ':'])
        || text == "localhost"
        || text.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn valid_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let inner = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let named = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(label),
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    named && port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Letters and digits, with one `.`, one or two `_`, or any number of `-` between.
fn valid_component(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    if !ends.is_some_and(|(&first, &last)| plain(first) && plain(last)) {
        return false;
    }
    bytes.split(|&byte| plain(byte)).all(|between| {
        matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|&byte| byte == b'-')
    })
}

fn valid_tag(text: &str) -> bool {
    let first = text.bytes().next();
    text.len() <= MAX_TAG
        && first.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn defaults_are_filled_in_and_left_out_again() {
        for (typed, full, familiar) in [
            (
                "nginx",
                "docker.io/library/nginx:latest",
                "library/nginx:latest",
            ),
            ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
            ("org/app", "docker.io/org/app:latest", "org/app:latest"),
            (
                "index.docker.io/a",
                "docker.io/library/a:latest",
                "a:latest",
            ),
            ("ghcr.io/o/a/b:x", "ghcr.io/o/a/b:x", "ghcr.io/o/a/b:x"),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            (
                "localhost:5000/a",
                "localhost:5000/a:latest",
                "localhost:5000/a:latest",
            ),
            ("[::1]:5000/a:b", "[::1]:5000/a:b", "[::1]:5000/a:b"),
            ("Host/a", "Host/a:latest", "Host/a:latest"),
        ] {
            let name = Name::parse(typed).expect(typed);
            assert_eq!(name.to_string(), full);
            assert_eq!(Name::parse(&name.familiar()), Some(name.clone()), "{typed}");
            assert!(familiar.ends_with(&name.familiar()), "{}", name.familiar());
        }
        let pinned = Name::parse(&format!("nginx@{DIGEST}")).expect("a name");
        assert_eq!(pinned.tag, None);
        assert_eq!(pinned.wanted(), DIGEST);
        let both = Name::parse(&format!("nginx:1@{DIGEST}")).expect("a name");
        assert_eq!(
            (both.tag.as_deref(), both.wanted().as_str()),
            (Some("1"), DIGEST)
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a/".repeat(128) + "b";
        for bad in [
            "",
            ":",
            "/",
            "a:",
            ":a",
            "a//b",
            "/a",
            "a/",
            "A",
            "a/B",
            "-a",
            "a-",
            "a..b",
            "a._b",
            "a___b",
            "a b",
            "a:-x",
            "a:x y",
            "a@",
            "a@sha256:1",
            "a@md5:1",
            "h.io:0/a",
            "h.io:99999/a",
            "h.io:x/a",
            "-h.io/a",
            "h..io/a",
            "[::g]:1/a",
            "../a",
            "a/../b",
            "a\n",
            "ä",
            &long,
            &format!("a:{}", "x".repeat(129)),
        ] {
            assert_eq!(Name::parse(bad), None, "{bad:?}");
        }
        for good in ["a__b", "a--b", "a.b-c_d", "0", "a/b/c/d"] {
            assert!(Name::parse(good).is_some(), "{good}");
        }
    }
}
