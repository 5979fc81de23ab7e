// SPDX-License-Identifier: Apache-2.0
//! The user-mode network from inside a guest and from outside it: what comes through, and
//! what must not, with this host's own services as what there is to reach.

use crate::support::daily::Daily;
use crate::support::husk::Host;
use crate::support::ports::free_port;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Listens on every address of the host, answers `served` and counts who came.
struct Service {
    port: u16,
    came: Arc<AtomicUsize>,
}

impl Service {
    fn start() -> Self {
        Self::at((Ipv6Addr::UNSPECIFIED, 0).into())
    }

    fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let came = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&came);
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let Ok(mut stream) = stream else { return };
                let _ = stream.write_all(b"served\n");
            }
        });
        Self { port, came }
    }

    fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }
}

/// The host's other addresses, as the kernel would speak from.
fn own_addresses() -> Vec<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().expect("interfaces");
    let mut list: Vec<IpAddr> = all
        .filter_map(|one| {
            let address = one.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect();
    list.sort();
    list.dedup();
    list
}

fn connect(address: &str) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(mut stream) = TcpStream::connect(address) {
            // The port is there before the guest is: who is not served comes again.
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let mut first = [0];
            if stream.peek(&mut first).is_ok_and(|count| count == 1) {
                return stream;
            }
            let _ = stream.flush();
        }
        assert!(Instant::now() < end, "{address} never serves");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_guest_is_on_a_network_with_its_gateway() {
    let Some(host) = Host::find() else { return };
    let script = "busybox ip -o addr show eth0 | grep -o 'inet6* [0-9a-f.:/]*' | head -n 2; \
        cat /etc/resolv.conf; grep husk.internal /etc/hosts | cut -f 1; \
        busybox ping -c 1 -W 5 10.0.2.2 >/dev/null && echo echo; \
        busybox ping -6 -c 1 -W 5 fd68:7573:6b00::2 >/dev/null && echo echo6";
    let said = "inet 10.0.2.15/24\ninet6 fd68:7573:6b00::f/64\nnameserver 10.0.2.2\n\
        10.0.2.2\nfd68:7573:6b00::2\necho\necho6\n";
    host.sh(script).end().is(0, said, "");
}

#[test]
fn without_a_network_there_is_no_interface() {
    let Some(host) = Host::find() else { return };
    let husk = host.sh("ls /sys/class/net").options(&["--network", "none"]);
    husk.end().is(0, "lo\n", "");
}

#[test]
fn a_published_port_is_served_by_the_guest_and_free_afterwards() {
    let Some(host) = Host::find() else { return };
    let port = free_port();
    let publish = format!("{port}:80");
    let script = "while echo served by the guest | busybox nc -l -p 80; do :; done";
    let started = host.sh(script).options(&["-p", &publish]).start();
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let mut text = String::new();
        let mut stream = connect(&address);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.read_to_string(&mut text).expect("all of it");
        assert_eq!(text, "served by the guest\n");
    }
    started.running.signal(nix::sys::signal::Signal::SIGTERM);
    started.end();
    TcpListener::bind(("127.0.0.1", port)).expect("free again");
}

#[test]
fn a_port_that_is_taken_is_said_so() {
    let Some(host) = Host::find() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let publish = format!("{port}:80");
    let ended = host.sh("true").options(&["-p", &publish]).end();
    assert_eq!(ended.code, 125, "{ended:?}");
    assert!(
        ended
            .stderr
            .contains(&format!("cannot publish 127.0.0.1:{port}")),
        "{ended:?}"
    );
    assert!(
        ended.stderr.contains("another program listens there"),
        "{ended:?}"
    );
}

#[test]
fn what_is_allowed_by_name_of_its_address_is_reached_and_bytes_are_whole() {
    let Some(host) = Host::find() else { return };
    let bytes: Vec<u8> = (0..8u32 << 20)
        .map(|at| (at ^ (at >> 8)).to_le_bytes()[0])
        .collect();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the guest comes");
        let mut out = stream.try_clone().expect("dup");
        std::io::copy(&mut stream, &mut out).expect("open")
    });
    let allow = format!("127.0.0.1:{port}");
    let script = format!("busybox nc host.husk.internal {port}");
    let husk = host.sh(&script).options(&["-i", "--allow", &allow]);
    let ended = husk
        .input(crate::support::process::Input::Bytes(bytes.clone()))
        .end();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(
        ended.stdout == bytes,
        "{} bytes of {}",
        ended.stdout.len(),
        bytes.len()
    );
    assert_eq!(echo.join().expect("no panic"), bytes.len() as u64);
}

/// Every way to this host's own services that a guest may think of, with the network as
/// open as it gets and with ranges that hold everything.
#[test]
fn the_hosts_own_services_are_out_of_reach() {
    let Some(host) = Host::find() else { return };
    let service = Service::start();
    let port = service.port;
    let mut targets: Vec<String> = own_addresses().iter().map(ToString::to_string).collect();
    targets.extend(["10.0.2.2", "10.0.2.3", "fd68:7573:6b00::2", "0.0.0.0"].map(String::from));
    targets.extend(["127.0.0.1", "127.1.2.3", "::1", "169.254.169.254"].map(String::from));
    targets.extend(["::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"].map(String::from));
    let mut script = String::new();
    // Past the guest's own loopback address and into the world.
    script += "busybox ip route add 169.254.0.0/16 via 10.0.2.2; busybox ip addr del 127.0.0.1/8 dev lo; \
        busybox ip route add 127.0.0.0/8 via 10.0.2.2; ";
    for target in &targets {
        script += &format!("echo hello | busybox nc -w 2 {target} {port} 2>/dev/null; ");
    }
    script += "echo tried";
    for options in [
        &["--network", "open"][..],
        &["--allow", "0.0.0.0/0", "--allow", "::/0"],
        &["--allow", "127.0.0.1:1", "--allow", "localhost"],
        &[],
    ] {
        let ended = host.sh(&script).options(options).end();
        assert_eq!(ended.stdout, b"tried\n", "{options:?}: {ended:?}");
        assert_eq!(service.came(), 0, "{options:?}");
    }
}

#[test]
fn datagrams_are_carried_both_ways_and_only_where_allowed() {
    let Some(host) = Host::find() else { return };
    let allowed = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let forbidden = UdpSocket::bind("127.0.0.1:0").expect("a port");
    forbidden.set_nonblocking(true).expect("non-blocking");
    let port = |socket: &UdpSocket| socket.local_addr().expect("an address").port();
    let (open, closed) = (port(&allowed), port(&forbidden));
    allowed.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
    let note = Arc::clone(&heard);
    let answer = thread::spawn(move || {
        let mut bytes = [0; 512];
        let (length, from) = allowed.recv_from(&mut bytes).expect("a datagram");
        note.lock().expect("no panic").extend(&bytes[..length]);
        allowed.send_to(&bytes[..length], from).expect("sent");
    });
    // A resolver is a program every busybox has that speaks UDP; the ports are those of the
    // host's two sockets.
    let script = format!(
        "busybox nslookup -type=a closed.example 10.0.2.2:{closed} >/dev/null 2>&1 & \
         busybox nslookup -type=a open.example 10.0.2.2:{open} >/dev/null 2>&1; echo over"
    );
    let allow = format!("127.0.0.1:{open}");
    let ended = host.sh(&script).options(&["--allow", &allow]).end();
    assert_eq!(ended.stdout, b"over\n", "{ended:?}");
    answer.join().expect("a datagram came");
    let heard = heard.lock().expect("no panic");
    assert!(heard.windows(4).any(|part| part == b"open"), "{heard:?}");
    assert!(forbidden.recv(&mut [0; 16]).is_err(), "nothing came");
}

/// Two seconds' worth each way, at once.
#[test]
fn a_limit_slows_the_interface_down_in_each_direction() {
    const BYTES: usize = 2 << 20;
    let Some(host) = Host::find() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let talk = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the guest comes");
        let start = Instant::now();
        let mut out = stream.try_clone().expect("dup");
        let sending = thread::spawn(move || {
            out.write_all(&vec![7; BYTES]).expect("open");
            out.shutdown(std::net::Shutdown::Write).expect("open");
        });
        let heard = std::io::copy(&mut stream, &mut std::io::sink()).expect("open");
        let took = start.elapsed();
        sending.join().expect("no panic");
        (heard, took)
    });
    let allow = format!("127.0.0.1:{port}");
    let script = format!(
        "now() {{ busybox cut -d ' ' -f 1 /proc/uptime; }}; now; head -c {BYTES} /dev/zero \
         | busybox nc host.husk.internal {port} | wc -c; now"
    );
    let options = ["--allow", &allow, "--net-bps", "1m"];
    let ended = host.sh(&script).options(&options).end();
    let (heard, took) = talk.join().expect("no panic");
    assert_eq!(heard, BYTES as u64);
    // A tenth of a second's worth comes at once.
    assert!(took > Duration::from_millis(1700), "{took:?}");
    let said = ended.text();
    let said: Vec<f64> = said.lines().filter_map(|line| line.parse().ok()).collect();
    let [began, heard, over] = said[..] else {
        panic!("{ended:?}");
    };
    assert_eq!(heard, BYTES as f64);
    assert!(over - began > 1.7, "{ended:?}");
}

#[test]
fn what_went_through_is_counted() {
    let Some(daily) = Daily::find() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let taking = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the guest comes");
        std::io::copy(&mut stream, &mut std::io::sink()).expect("open")
    });
    let allow = format!("127.0.0.1:{port}");
    let script = format!(
        "head -c 100000 /dev/zero | busybox nc host.husk.internal {port}; echo sent; exec sleep 600"
    );
    let words = daily.words(&["--name", "talker", "--allow", &allow], &script);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let running = daily.start(&words, crate::support::process::Input::default());
    running.wait_for("sent\n");
    assert_eq!(taking.join().expect("no panic"), 100_000);
    let text = daily.does(&["stats", "--format", "json", "talker"]);
    let rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let number = |name: &str| rows[0][name].as_u64().expect("a number");
    assert!(number("net_sent_bytes") > 100_000, "{text}");
    assert!(number("net_sent_bytes") < 200_000, "{text}");
    assert!(
        (100..20_000).contains(&number("net_received_bytes")),
        "{text}"
    );
    assert!(number("net_received_frames") >= 3, "{text}");
    let table = daily.does(&["stats"]);
    assert!(table.contains("RECEIVED"), "{table}");
    daily.does(&["kill", "talker"]);
    running.finish();
}

#[test]
fn bad_words_for_a_network_are_told_all_at_once() {
    let outcome = crate::support::run(&[
        "run",
        "-p",
        "80",
        "-p",
        "0:80",
        "-p",
        "1:2/sctp",
        "-p",
        "x:1:2",
        "--allow",
        "a b",
        "--allow",
        "1.2.3.4/33",
        "--allow",
        "1.2.3",
        "--allow",
        "a:0",
        "--network",
        "tap:",
        "--net-bps",
        "0",
        "dir:/",
        "true",
    ]);
    assert_eq!(outcome.code, 125, "{outcome:?}");
    let problems = outcome
        .stderr
        .lines()
        .filter(|line| line.starts_with("husk: "));
    assert_eq!(problems.count(), 10, "{}", outcome.stderr);
}
