// SPDX-License-Identifier: Apache-2.0
//! A registry as Debian packages it, on a port of its own, gone with the test.

use super::{Sample, done, tool};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use tempfile::TempDir;

/// `user` with the password `secret`, as htpasswd -B writes it.
const LOGIN: &str = "user:$2y$05$cGhCFhDq8TNb8NbeSWfACOtfw9w80Iz0K7WzuIvlYyEAni/un1/U2\n";

pub struct Registry {
    process: Child,
    pub host: String,
    folder: TempDir,
}

/// What a registry is beside being one.
#[derive(Clone, Copy, Default)]
pub struct Kind {
    /// Only `user` may have anything.
    pub login: bool,
    /// With a certificate of its own making.
    pub tls: bool,
}

impl Registry {
    pub fn start(kind: Kind) -> Option<Self> {
        let folder = TempDir::new().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let auth = match kind.login {
            true => {
                std::fs::write(path("login"), LOGIN).expect("a file");
                let file = path("login").display().to_string();
                format!("auth: {{htpasswd: {{realm: test, path: {file:?}}}}}\n")
            }
            false => String::new(),
        };
        let tls = match kind.tls {
            true => {
                certify(folder.path())?;
                let (cert, key) = (path("cert.pem"), path("key.pem"));
                format!(", tls: {{certificate: {cert:?}, key: {key:?}}}")
            }
            false => String::new(),
        };
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {:?}}}}}\n\
             http: {{addr: \"127.0.0.1:0\"{tls}}}\n{auth}",
            path("data").display().to_string()
        );
        std::fs::write(path("config.yml"), config).expect("a file");
        let mut command = tool("docker-registry")?;
        command.arg("serve").arg(path("config.yml"));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("docker-registry starts");
        let mut log = BufReader::new(process.stderr.take().expect("piped"));
        let mut said = String::new();
        let port = loop {
            let before = said.len();
            let len = log.read_line(&mut said).expect("text");
            assert!(len > 0, "docker-registry ended: {said}");
            if let Some((_, rest)) = said[before..].split_once("listening on 127.0.0.1:") {
                let digits = rest.find(|letter: char| !letter.is_ascii_digit());
                break rest[..digits.unwrap_or(rest.len())].to_owned();
            }
        };
        // It must never wait for somebody to read what it says.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Some(Self {
            process,
            host: format!("localhost:{port}"),
            folder,
        })
    }

    /// What whoever trusts it must trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// One with the shared sample in it, and its whole name there. `None`, said aloud, where
    /// what is needed for it is not installed.
    pub fn serving(kind: Kind, name: &str, options: &[&str]) -> Option<(Self, String)> {
        let sample = Sample::shared()?;
        let registry = Self::start(kind)?;
        let name = registry.push(sample, name, options)?;
        Some((registry, name))
    }

    /// Fills it by skopeo; what the image is called there.
    pub fn push(&self, sample: &Sample, name: &str, options: &[&str]) -> Option<String> {
        self.copy(&sample.reference(), name, options)
    }

    /// The same from elsewhere.
    pub fn copy(&self, from: &str, name: &str, options: &[&str]) -> Option<String> {
        let name = format!("{}/{name}", self.host);
        let mut skopeo = tool("skopeo")?;
        skopeo
            .args(["copy", "-q", "--dest-tls-verify=false"])
            .args(options);
        done(skopeo.arg(from).arg(format!("docker://{name}")));
        Some(name)
    }

    /// Puts a manifest there as it is.
    pub fn put(&self, path: &str, kind: &str, body: &str) {
        let mut stream = TcpStream::connect(&self.host).expect("a connection");
        let len = body.len();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n",
            self.host
        );
        stream.write_all((head + body).as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
}

/// Not one that may sign others: such a one is no server's.
const CERTIFICATE: &str = "[req]\ndistinguished_name = dn\nx509_extensions = ext\n[dn]\n[ext]\n\
    subjectAltName = DNS:localhost\nbasicConstraints = critical,CA:FALSE\n";

/// A certificate for localhost that signs itself.
fn certify(folder: &Path) -> Option<()> {
    let mut openssl = tool("openssl")?;
    openssl.args([
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
    ]);
    std::fs::write(folder.join("openssl.conf"), CERTIFICATE).expect("a file");
    openssl.args(["-subj", "/CN=localhost", "-config"]);
    openssl.arg(folder.join("openssl.conf"));
    openssl.arg("-keyout").arg(folder.join("key.pem"));
    openssl.arg("-out").arg(folder.join("cert.pem"));
    done(&mut openssl);
    Some(())
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
