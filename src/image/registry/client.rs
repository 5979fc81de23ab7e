// SPDX-License-Identifier: Apache-2.0
//! Requests to one registry: addresses, logins, redirects, and what is tried again.
//!
//! Used by several threads at once; each blocks on its own connection. Plain HTTP goes to
//! this host alone, and a login never to another host than it was kept for, but where the
//! registry itself sends it to ask for a token.

use super::PullError;
use super::credentials::{self, Credentials};
use crate::image::digest::Digest;
use crate::image::manifest::{DOCKER_LIST, DOCKER_MANIFEST, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST};
use crate::image::name::Name;
use std::io::Read;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use ureq::http::{HeaderMap, Response, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// Where docker.io answers.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// Most addresses one request may be sent on to.
const MAX_REDIRECTS: usize = 5;
/// A connection on which nothing comes for so long is given up.
const STALLED: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(15);
/// How often a request is sent when the host is busy or out of reach.
const ATTEMPTS: u32 = 5;
/// Longest answer with a token in it, and longest error message that is read.
const MAX_ANSWER: u64 = 1 << 20;
/// How much of an error message is shown.
const SHOWN: usize = 200;

pub struct Client {
    agent: Agent,
    /// As it was typed.
    host: String,
    /// `https://HOST`.
    base: String,
    repository: String,
    /// The registry is on this host and speaks plain HTTP.
    plain: bool,
    credentials: Option<Credentials>,
    /// What the registry was last content with.
    authorization: Mutex<Option<String>>,
}

/// A blob, or the rest of one.
pub struct Answer {
    pub from: u64,
    pub body: Box<dyn Read>,
}

impl Client {
    pub fn new(name: &Name) -> Result<Self, PullError> {
        let host = match name.host.as_str() {
            "docker.io" => DOCKER_HUB,
            host => host,
        };
        crate::sys::names::look_up_without_modules();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(STALLED))
            .timeout_per_read(Some(STALLED))
            .user_agent(concat!("husk/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls);
        // Nothing between this host and itself.
        let here = is_loopback(host);
        let config = if here { config.proxy(None) } else { config };
        let agent = config.build().new_agent();
        let plain = here && speaks_plain(&agent, host);
        let scheme = if plain { "http" } else { "https" };
        Ok(Self {
            agent,
            host: name.host.clone(),
            base: format!("{scheme}://{host}"),
            repository: name.repository.clone(),
            plain,
            credentials: credentials::find(name)?,
            authorization: Mutex::new(None),
        })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// The manifest or index of that tag or digest.
    pub fn manifest(&self, wanted: &str) -> Result<Vec<u8>, PullError> {
        let url = format!("{}/v2/{}/manifests/{wanted}", self.base, self.repository);
        let accept = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].join(", ");
        let answer = self.get(&url, &[(header::ACCEPT, accept)])?;
        self.whole(answer, MAX_DOCUMENT, "manifest")
    }

    /// A blob from byte `from` on, or from its start where the registry will have it so.
    pub fn blob(&self, digest: &Digest, from: u64) -> Result<Answer, PullError> {
        let url = format!("{}/v2/{}/blobs/{digest}", self.base, self.repository);
        let range = (from > 0).then(|| (header::RANGE, format!("bytes={from}-")));
        let answer = self.get(&url, range.as_slice())?;
        let from = match answer.status().as_u16() {
            206 => range_start(answer.headers()).unwrap_or(0),
            _ => 0,
        };
        let body = Box::new(answer.into_body().into_reader());
        Ok(Answer { from, body })
    }

    /// Asks until there is an answer that is good, or final.
    fn get(
        &self,
        url: &str,
        mut headers: &[(header::HeaderName, String)],
    ) -> Result<Response<Body>, PullError> {
        let mut attempt = 1;
        let mut asked = false;
        loop {
            let error = match self.follow(url, headers) {
                Ok((answer, own)) => match answer.status().as_u16() {
                    200 | 206 => return Ok(answer),
                    // Those it leads to would say where the login is to be sent, and have it.
                    401 if own && !asked => {
                        asked = true;
                        self.log_in(answer.headers())?;
                        continue;
                    }
                    // What was kept of it is longer than it is: from the start.
                    416 if !headers.is_empty() => {
                        headers = &[];
                        continue;
                    }
                    status => self.refused(status, answer),
                },
                Err(error) => error,
            };
            let passing = match &error {
                PullError::Unreachable { source, .. } => passes(source),
                PullError::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
                _ => false,
            };
            if !passing || attempt >= ATTEMPTS {
                return Err(error);
            }
            pause(attempt);
            attempt += 1;
        }
    }

    /// One request, sent on as the registry says; and whether the registry itself answered.
    fn follow(
        &self,
        url: &str,
        headers: &[(header::HeaderName, String)],
    ) -> Result<(Response<Body>, bool), PullError> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&url);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            // Those who serve blobs for a registry refuse a login that is not theirs, and
            // must not see it.
            let own = self.is_registry(&url);
            if let Some(authorization) = self.authorization().filter(|_| own) {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let answer = request.call().map_err(|error| self.unreachable(error))?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((answer, own));
            }
            url = self.next(&url, answer.headers())?;
        }
        Err(PullError::Circle {
            host: self.host.clone(),
        })
    }

    fn authorization(&self) -> Option<String> {
        let known = self.authorization.lock();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_registry(&self, url: &str) -> bool {
        let rest = url.strip_prefix(&self.base);
        rest.is_some_and(|rest| rest.starts_with('/'))
    }

    fn next(&self, url: &str, headers: &HeaderMap) -> Result<String, PullError> {
        let to = headers
            .get(header::LOCATION)
            .and_then(|to| to.to_str().ok());
        let to = to.unwrap_or_default();
        // Absolute, or a path of the same host (RFC 9110, section 10.2.2).
        let next = match to.starts_with('/') && !to.starts_with("//") {
            true => {
                let host = url.find("://").map_or(0, |at| at + 3);
                let end = url[host..].find('/').map_or(url.len(), |at| host + at);
                format!("{}{to}", &url[..end])
            }
            false => to.to_owned(),
        };
        self.allowed(&next).map(|()| next)
    }

    /// HTTPS, or a registry of this host leading to this host.
    fn allowed(&self, url: &str) -> Result<(), PullError> {
        let lower = url.to_ascii_lowercase();
        let here = lower.strip_prefix("http://").is_some_and(|rest| {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            self.plain && !authority.contains('@') && is_loopback(authority)
        });
        match here || lower.starts_with("https://") {
            true => Ok(()),
            false => Err(PullError::Insecure {
                host: self.host.clone(),
                to: url.chars().take(SHOWN).collect(),
            }),
        }
    }

    /// Does what the challenge asks for (RFC 7617; distribution's token specification).
    fn log_in(&self, headers: &HeaderMap) -> Result<(), PullError> {
        let challenges = headers.get_all(header::WWW_AUTHENTICATE);
        let mut challenges = challenges.iter().filter_map(|value| value.to_str().ok());
        let denied = || PullError::Denied {
            host: self.host.clone(),
            logged_in: self.credentials.is_some(),
        };
        let unknown = || PullError::Challenge {
            host: self.host.clone(),
        };
        let challenge = challenges
            .find_map(credentials::challenge)
            .ok_or_else(unknown)?;
        let authorization = match challenge {
            credentials::Challenge::Basic => match &self.credentials {
                Some(Credentials::Basic(basic)) => format!("Basic {basic}"),
                _ => return Err(denied()),
            },
            credentials::Challenge::Bearer { realm, service } => {
                self.allowed(&realm)?;
                format!("Bearer {}", self.token(&realm, service.as_deref())?)
            }
        };
        *self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(authorization);
        Ok(())
    }

    fn token(&self, realm: &str, service: Option<&str>) -> Result<String, PullError> {
        let scope = format!("repository:{}:pull", self.repository);
        let service = service.unwrap_or_default();
        let answer = match &self.credentials {
            Some(Credentials::Token(token)) => self.agent.post(realm).send_form([
                ("grant_type", "refresh_token"),
                ("client_id", "husk"),
                ("service", service),
                ("scope", &scope),
                ("refresh_token", token),
            ]),
            other => {
                let mut request = self.agent.get(realm).query("scope", &scope);
                if !service.is_empty() {
                    request = request.query("service", service);
                }
                if let Some(Credentials::Basic(basic)) = other {
                    request = request.header(header::AUTHORIZATION, format!("Basic {basic}"));
                }
                request.call()
            }
        };
        let answer = answer.map_err(|error| self.unreachable(error))?;
        if !answer.status().is_success() {
            return Err(self.refused(answer.status().as_u16(), answer));
        }
        let bytes = self.whole(answer, MAX_ANSWER, "token")?;
        credentials::token(&bytes).ok_or_else(|| PullError::Challenge {
            host: self.host.clone(),
        })
    }

    fn whole(
        &self,
        answer: Response<Body>,
        most: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, PullError> {
        let mut bytes = Vec::new();
        let mut body = answer.into_body().into_reader().take(most + 1);
        body.read_to_end(&mut bytes)
            .map_err(|error| self.unreachable(error.into()))?;
        match bytes.len() as u64 > most {
            true => Err(PullError::Long {
                host: self.host.clone(),
                what,
            }),
            false => Ok(bytes),
        }
    }

    fn refused(&self, status: u16, answer: Response<Body>) -> PullError {
        let host = self.host.clone();
        match status {
            404 => PullError::Absent { host },
            401 | 403 => PullError::Denied {
                host,
                logged_in: self.credentials.is_some(),
            },
            _ => PullError::Status {
                host,
                status,
                said: self.whole(answer, MAX_ANSWER, "message").map_or_else(
                    |_| String::new(),
                    |bytes| {
                        String::from_utf8_lossy(&bytes)
                            .chars()
                            .take(SHOWN)
                            .collect()
                    },
                ),
            },
        }
    }

    fn unreachable(&self, error: ureq::Error) -> PullError {
        PullError::Unreachable {
            host: self.host.clone(),
            source: Box::new(error),
        }
    }
}

/// Does a registry of this host speak plain HTTP? One that speaks TLS says 400 to it, or
/// nothing that is HTTP.
fn speaks_plain(agent: &Agent, host: &str) -> bool {
    match agent.get(format!("http://{host}/v2/")).call() {
        Ok(answer) => answer.status() != 400,
        Err(ureq::Error::Protocol(_) | ureq::Error::Http(_)) => false,
        // Not to be reached, which the first true request will say.
        Err(_) => true,
    }
}

/// May it be otherwise in a moment? A name that does not exist and a certificate that is
/// not to be trusted stay so.
fn passes(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => error.kind() != std::io::ErrorKind::ConnectionRefused,
        ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed => true,
        _ => false,
    }
}

/// Waits longer each time, so that a busy host is not kept busy.
pub fn pause(attempt: u32) {
    const FIRST: Duration = Duration::from_millis(200);
    std::thread::sleep(FIRST * 2u32.saturating_pow(attempt.min(6)));
}

/// Does `HOST[:PORT]` name this host?
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The first byte of a part (RFC 9110, section 14.4).
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (start, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    start.parse().ok()
}
