// SPDX-License-Identifier: Apache-2.0
//! What an image declares beside its command, its ports, volumes and labels, and what a run
//! makes of them. Main thread. The words are the image's and hostile; paths are the guest's.

use super::RunRequest;
use super::network::Publish;
use crate::cli::output::Problem;
use crate::config::net::{MAX_PUBLISHED, Protocol};
use crate::image::ImageConfig;
use crate::instance::record::Port;
use husk_protocol::{Mount, MountKind};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

/// How often another port is tried where one family has it free and the other has not.
const ATTEMPTS: usize = 16;

/// What comes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// `80/tcp` each.
    pub exposed: Vec<String>,
    /// Where the service writes and nothing that was typed is mounted.
    pub volumes: Vec<String>,
    labels: BTreeMap<String, String>,
    publish: Vec<Publish>,
}

impl Declared {
    pub fn of(config: &ImageConfig, request: &RunRequest) -> Result<Self, Problem> {
        let mut publish = request.network.publish.clone();
        let exposed = exposed(&config.exposed_ports);
        if request.network.publish_all {
            publish.extend(free_ports(&unpublished(&exposed, &publish))?);
        }
        if publish.len() > MAX_PUBLISHED {
            return Err(Problem::new(format!(
                "--publish-all: {MAX_PUBLISHED} ports are the most, and these are {}",
                publish.len()
            )));
        }
        let typed = request.storage.mounts.iter().map(|mount| &*mount.target);
        Ok(Self {
            exposed: config
                .exposed_ports
                .iter()
                .map(|word| whole(word))
                .collect(),
            volumes: volumes(&config.volumes, &typed.collect::<Vec<_>>()),
            labels: config.labels.clone(),
            publish,
        })
    }

    /// The request with every port that is to be opened.
    pub fn published(&self, request: &RunRequest) -> RunRequest {
        let mut request = request.clone();
        request.network.publish.clone_from(&self.publish);
        request
    }

    /// The same, as it is written down.
    pub fn ports(&self) -> Vec<Port> {
        self.publish.iter().map(Port::from).collect()
    }

    pub fn mounts(&self) -> Vec<Mount> {
        let mount = |target: &String| Mount {
            kind: MountKind::Own,
            source: String::new(),
            target: target.clone().into_bytes(),
            read_only: false,
            size: 0,
        };
        self.volumes.iter().map(mount).collect()
    }

    /// The image's labels are the machine's, but for those that were typed.
    pub fn labels(&self, request: &RunRequest) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        labels.extend(request.labels.clone());
        labels
    }
}

/// `PORT`, `FIRST-LAST`, each with `/tcp` or `/udp` behind it or nothing (image-spec,
/// config.md). What husk carries no ports of is left out, as is what is no port.
fn exposed(words: &[String]) -> BTreeSet<(Protocol, u16)> {
    let mut ports = BTreeSet::new();
    for word in words {
        let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => continue,
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            ports.extend((first.max(1)..=last).map(|port| (protocol, port)));
        }
    }
    ports
}

/// With its protocol.
fn whole(word: &str) -> String {
    match word.contains('/') {
        true => word.to_owned(),
        false => format!("{word}/tcp"),
    }
}

/// Those no port of the host leads to yet.
fn unpublished(exposed: &BTreeSet<(Protocol, u16)>, publish: &[Publish]) -> Vec<(Protocol, u16)> {
    let led = |&&(protocol, port): &&(Protocol, u16)| {
        !publish
            .iter()
            .any(|known| (known.protocol, known.guest) == (protocol, port))
    };
    exposed.iter().filter(led).copied().collect()
}

/// A port of the host for each, free on loopback. They are held until all are chosen, so that
/// none is chosen twice, and then let go for whoever opens them for good.
pub fn free_ports(ports: &[(Protocol, u16)]) -> Result<Vec<Publish>, Problem> {
    let mut held = Vec::new();
    let found = ports
        .iter()
        .take(MAX_PUBLISHED + 1)
        .map(|&(protocol, guest)| {
            let (host, sockets) = free_port(protocol)?;
            held.push(sockets);
            Ok(Publish {
                address: None,
                host,
                guest,
                protocol,
            })
        });
    found.collect::<io::Result<_>>().map_err(|error| {
        Problem::new("--publish-all: there is no free port on this host").because(&error)
    })
}

/// One that is free in both families, or in the one this host has.
fn free_port(protocol: Protocol) -> io::Result<(u16, Vec<OwnedFd>)> {
    let bind = |v6: bool, port: u16| -> io::Result<(u16, OwnedFd)> {
        let at = match v6 {
            false => (Ipv4Addr::LOCALHOST, port).into(),
            true => std::net::SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        };
        Ok(match protocol {
            Protocol::Tcp => {
                let socket = TcpListener::bind(at)?;
                (socket.local_addr()?.port(), socket.into())
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(at)?;
                (socket.local_addr()?.port(), socket.into())
            }
        })
    };
    for _ in 0..ATTEMPTS {
        let (port, first) = bind(false, 0)?;
        match bind(true, port) {
            Ok((_, second)) => return Ok((port, vec![first, second])),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(_) => return Ok((port, vec![first])),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// The volumes of an image, spelt one way, but for those that lie at or below what was typed:
/// there the operator's own keeps what is written.
fn volumes(declared: &[String], typed: &[&str]) -> Vec<String> {
    let below = |path: &str, other: &str| {
        let rest = path.strip_prefix(other);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let paths = declared.iter().filter_map(|path| clean(path));
    // In order of the alphabet what lies in another comes behind it.
    let paths: BTreeSet<String> = paths
        .filter(|path| !typed.iter().any(|other| below(path, other)))
        .collect();
    paths.into_iter().collect()
}

/// From the root, without `.` and `..`; none for the root itself, which is no volume.
fn clean(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.into()).collect()
    }

    #[test]
    fn exposed_ports_are_read_as_people_write_them() {
        let ports = exposed(&words(&[
            "80/tcp",
            "80",
            "53/udp",
            "8000-8002/tcp",
            "0-1",
            "1/sctp",
            "x",
            "",
            "9-8",
            "70000",
            "-1",
            "65535/tcp",
        ]));
        let tcp = [1, 80, 8000, 8001, 8002, 65535].map(|port| (Protocol::Tcp, port));
        let wanted: BTreeSet<_> = tcp.into_iter().chain([(Protocol::Udp, 53)]).collect();
        assert_eq!(ports, wanted);
    }

    #[test]
    fn each_port_gets_one_of_the_host() {
        let ports: Vec<_> = (1..=40).map(|port| (Protocol::Tcp, port)).collect();
        let ports = [ports, vec![(Protocol::Udp, 53)]].concat();
        let publish = free_ports(&ports).unwrap();
        let hosts: BTreeSet<_> = publish.iter().map(|one| (one.protocol, one.host)).collect();
        assert_eq!(hosts.len(), 41);
        assert!(
            publish
                .iter()
                .all(|one| one.host > 0 && one.address.is_none())
        );
        assert_eq!(unpublished(&ports.iter().copied().collect(), &publish), []);
        let some = unpublished(&ports.iter().copied().collect(), &publish[..40]);
        assert_eq!(some, [(Protocol::Udp, 53)]);
    }

    #[test]
    fn volumes_are_directories_of_the_guest() {
        let declared = words(&[
            "/data/",
            "data",
            "/",
            "",
            "/../../etc/./x",
            "/a/b",
            "/a",
            "/ab",
            "..",
        ]);
        assert_eq!(
            volumes(&declared, &[]),
            ["/a", "/a/b", "/ab", "/data", "/etc/x"]
        );
        assert_eq!(volumes(&declared, &["/a", "/etc"]), ["/ab", "/data"]);
    }
}
