// SPDX-License-Identifier: Apache-2.0
//! Logins for registries: where people keep them, and what registries ask for.
//!
//! The files are the operator's and only read: auth.json of containers-auth.json(5) and
//! Docker's config.json, which have the same form. Challenges are the registry's, hostile.

use super::PullError;
use super::keeper::{self, KeeperFault};
use crate::image::name::Name;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Longest file of logins.
const MAX_FILE: u64 = 1 << 20;
/// Longest token: what a server takes as one header is less.
const MAX_TOKEN: usize = 64 << 10;

#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// `user:password` in base64.
    Basic(String),
    /// To be exchanged for another.
    Token(String),
}

/// No login in a message or a log.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Logins {
    auths: HashMap<String, Login>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// The login kept for an image: the first file that has one counts.
pub fn find(name: &Name) -> Result<Option<Credentials>, PullError> {
    for path in files(|name| std::env::var_os(name).map(PathBuf::from)) {
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => return Err(PullError::Credentials { path }),
        };
        let Ok(logins) = serde_json::from_slice(&text) else {
            return Err(PullError::Credentials { path });
        };
        if let Some(found) = choose(&logins, name, &keeper::ask)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(text)
}

/// In the order of containers-auth.json(5).
fn files(env: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(only) = env("REGISTRY_AUTH_FILE") {
        return vec![only];
    }
    let home = env("HOME");
    let below = |folder: Option<PathBuf>, name: &str| folder.map(|folder| folder.join(name));
    let config = env("XDG_CONFIG_HOME").or_else(|| below(home.clone(), ".config"));
    let docker = env("DOCKER_CONFIG").or_else(|| below(home, ".docker"));
    [
        below(env("XDG_RUNTIME_DIR"), "containers/auth.json"),
        below(config, "containers/auth.json"),
        below(docker, "config.json"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// How a helper is asked: its name, and the registry as it knows it.
type Ask<'a> = &'a dyn Fn(&str, &str) -> Result<Option<Credentials>, KeeperFault>;

/// The login whose key is the longest that the image is below of. A helper named for the
/// registry comes before what is in the file, and the helper for all others behind it.
fn choose(logins: &Logins, name: &Name, ask: Ask) -> Result<Option<Credentials>, PullError> {
    let failed = |helper: &str, problem| PullError::Keeper {
        host: name.host.clone(),
        program: keeper::program(helper),
        problem,
    };
    if let Some((key, helper)) = longest(&logins.cred_helpers, name)
        && !helper.is_empty()
    {
        return ask(helper, &server(&plain(key))).map_err(|problem| failed(helper, problem));
    }
    let login = longest(&logins.auths, name).map(|(_, login)| login);
    if let Some(found) = login.and_then(Login::credentials) {
        return Ok(Some(found));
    }
    let Some(helper) = logins.creds_store.as_ref().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    match ask(helper, &server(&name.host)) {
        Ok(found) => Ok(found),
        // Who logged in has an empty entry there. For an image anybody may have none is
        // needed; should the registry want one after all, it says so.
        Err(_) if login.is_none() => Ok(None),
        Err(problem) => Err(failed(helper, problem)),
    }
}

fn longest<'a, T>(keyed: &'a HashMap<String, T>, name: &Name) -> Option<(&'a String, &'a T)> {
    let full = format!("{}/{}", name.host, name.repository);
    let matching = |key: &str| {
        let key = plain(key);
        let below = full.strip_prefix(&key)?;
        (below.is_empty() || below.starts_with('/')).then_some(key.len())
    };
    let found = keyed
        .iter()
        .filter_map(|(key, value)| Some((matching(key)?, (key, value))));
    found.max_by_key(|(len, _)| *len).map(|(_, keyed)| keyed)
}

/// What helpers know a registry as: Docker's own by the address of its first version.
fn server(key: &str) -> String {
    match key {
        "docker.io" => "https://index.docker.io/v1/".to_owned(),
        key => key.to_owned(),
    }
}

impl Login {
    fn credentials(&self) -> Option<Credentials> {
        match (&self.identitytoken, &self.auth) {
            (Some(token), _) if !token.is_empty() => Some(Credentials::Token(token.clone())),
            // Read and written again: it becomes a header.
            (_, Some(auth)) if !auth.is_empty() => {
                let bytes = STANDARD.decode(auth.trim()).unwrap_or_default();
                Some(Credentials::Basic(STANDARD.encode(bytes)))
            }
            _ => None,
        }
    }
}

pub fn basic(user: &str, secret: &str) -> Credentials {
    Credentials::Basic(STANDARD.encode(format!("{user}:{secret}")))
}

/// A key without what Docker of old wrote around the host.
fn plain(key: &str) -> String {
    let key = key
        .strip_prefix("https://")
        .or(key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key
        .strip_suffix("/v1")
        .or(key.strip_suffix("/v2"))
        .unwrap_or(key);
    let (host, rest) = key
        .split_once('/')
        .map_or((key, None), |(host, rest)| (host, Some(rest)));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    match rest {
        Some(rest) => format!("{host}/{rest}"),
        None => host.to_owned(),
    }
}

/// What a registry wants before it answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// Reads one `WWW-Authenticate` (RFC 9110, section 11.6.1).
pub fn challenge(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut realm = None;
    let mut service = None;
    let mut rest = rest;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        match key.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            _ => {}
        }
        rest = next;
    }
    Some(Challenge::Bearer {
        realm: realm?,
        service,
    })
}

/// The token in the answer of the one who gives them.
pub fn token(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    let token = answer.token.or(answer.access_token)?;
    // It becomes a header (RFC 6750, section 2.1).
    let fits = !token.is_empty()
        && token.len() <= MAX_TOKEN
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(file: &str, name: &str) -> Option<String> {
        let logins = serde_json::from_str(file).expect("logins");
        // One keeper knows who is asked for, one nobody, one is not there.
        let ask = |helper: &str, server: &str| match helper {
            "pass" => Ok(Some(Credentials::Token(format!("kept:{server}")))),
            "empty" => Ok(None),
            _ => Err(KeeperFault::Answer),
        };
        match choose(&logins, &Name::parse(name).expect("a name"), &ask) {
            Ok(Some(Credentials::Basic(auth) | Credentials::Token(auth))) => Some(auth),
            Ok(None) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    #[test]
    fn the_most_precise_login_counts() {
        let file = r#"{"auths": {
            "r.io": {"auth": "QTox"},
            "r.io/team": {"auth": "Qjox"},
            "https://index.docker.io/v1/": {"auth": "Qzox"},
            "t.io": {"auth": "QTox", "identitytoken": "token"},
            "empty.io": {}, "kept.io": {"auth": "QTox"}
        }, "credHelpers": {"kept.io": "pass", "kept.io/team": "empty", "bad.io": "gone",
            "file.io": ""}}"#;
        assert_eq!(login(file, "r.io/x").as_deref(), Some("QTox"));
        assert_eq!(login(file, "r.io/team/x").as_deref(), Some("Qjox"));
        assert_eq!(login(file, "r.io/teammate").as_deref(), Some("QTox"));
        assert_eq!(login(file, "nginx").as_deref(), Some("Qzox"));
        assert_eq!(login(file, "t.io/x").as_deref(), Some("token"));
        assert_eq!(login(file, "r.io.evil.com/x"), None);
        assert_eq!(login(file, "empty.io/x"), None);
        assert_eq!(login(file, "kept.io/x").as_deref(), Some("kept:kept.io"));
        assert_eq!(login(file, "kept.io/team/x"), None);
        assert_eq!(login(file, "file.io/x"), None);
        assert!(login(file, "bad.io/x").is_some_and(|said| said.contains("credential-gone")));
        assert_eq!(login("{}", "r.io/x"), None);
    }

    #[test]
    fn one_helper_keeps_what_the_file_has_not() {
        let file = |helper: &str| {
            let auths = r#"{"r.io": {"auth": "QTox"}, "docker.io": {}}"#;
            format!(r#"{{"auths": {auths}, "credsStore": "{helper}"}}"#)
        };
        let kept = file("pass");
        assert_eq!(login(&kept, "r.io/x").as_deref(), Some("QTox"));
        let hub = Some("kept:https://index.docker.io/v1/");
        assert_eq!(login(&kept, "nginx").as_deref(), hub);
        assert_eq!(login(&kept, "new.io:5/x").as_deref(), Some("kept:new.io:5"));
        assert_eq!(login(&file("empty"), "nginx"), None);
        // Only who logged in there wants to hear that the helper fails.
        let said = login(&file("gone"), "nginx").expect("a complaint");
        assert!(said.contains("credential-gone"), "{said}");
        assert_eq!(login(&file("gone"), "new.io/x"), None);
        assert_eq!(login(&file(""), "nginx"), None);
    }

    #[test]
    fn files_are_looked_for_where_tools_write_them() {
        let all = |name: &str| Some(PathBuf::from(format!("/{name}")));
        assert_eq!(files(all), [Path::new("/REGISTRY_AUTH_FILE")]);
        let some = |name: &str| (name == "HOME").then(|| PathBuf::from("/h"));
        let wanted = ["/h/.config/containers/auth.json", "/h/.docker/config.json"];
        assert_eq!(files(some), wanted.map(PathBuf::from));
        assert_eq!(files(|_| None), Vec::<PathBuf>::new());
    }

    #[test]
    fn challenges_are_read() {
        let bearer =
            challenge("Bearer realm=\"https://a.io/token?x=1,2\",service=\"s\", scope=\"a:b,c\"");
        let wanted = Challenge::Bearer {
            realm: "https://a.io/token?x=1,2".into(),
            service: Some("s".into()),
        };
        assert_eq!(bearer, Some(wanted));
        assert_eq!(challenge("basic realm=x"), Some(Challenge::Basic));
        for bad in [
            "",
            "Digest realm=x",
            "Bearer",
            "Bearer service=x",
            "Bearer realm=\"x",
        ] {
            assert_eq!(challenge(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_token_that_is_no_header_is_none() {
        assert_eq!(token(br#"{"token":"a.b"}"#).as_deref(), Some("a.b"));
        assert_eq!(token(br#"{"access_token":"c"}"#).as_deref(), Some("c"));
        for bad in [
            &br#"{"token":"a\r\nX: y"}"#[..],
            br#"{"token":""}"#,
            b"{}",
            b"[",
            b"",
        ] {
            assert_eq!(token(bad), None);
        }
    }
}
