// SPDX-License-Identifier: Apache-2.0
//! What a guest may reach. The thread of `husk net`; waits for nothing.
//!
//! An address is judged at the moment it is connected to, so no answer of a name server,
//! now or later, leads past the rules. Some addresses are the host's own affair: they are
//! never reached but by a rule that names them.

mod routes;

use crate::config::net::{Addresses, Destination, Rule};
use routes::Routes;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Addresses remembered from answers to allowed names; the oldest goes first. Stops a guest,
/// or a name server, from filling our memory with names that have many addresses.
const MAX_PINS: usize = 4096;

/// Metadata services that do not lie in a link-local range.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Ports a rule opens; none means all of them.
type Ports = Vec<Option<u16>>;

pub struct Policy {
    addresses: Addresses,
    open: bool,
    rules: Vec<Rule>,
    pins: HashMap<IpAddr, Ports>,
    order: VecDeque<IpAddr>,
    is_hosts_own: Box<dyn Fn(IpAddr) -> bool>,
}

impl Policy {
    /// To be made before the process is jailed: it opens what it asks the kernel by.
    #[must_use]
    pub fn new(addresses: Addresses, open: bool, rules: Vec<Rule>) -> Self {
        let routes = Routes::open();
        Self {
            addresses,
            open,
            rules,
            pins: HashMap::new(),
            order: VecDeque::new(),
            is_hosts_own: Box::new(move |address| routes.lead_to_host(address)),
        }
    }

    /// Where a connection of the guest to `to` leads on the host, if anywhere. The gateway's
    /// address stands for the host's own loopback address.
    #[must_use]
    pub fn target(&self, to: SocketAddr) -> Option<SocketAddr> {
        let address = match to.ip() {
            gateway if self.addresses.is_gateway(gateway) => match gateway {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            },
            other => other,
        };
        let target = SocketAddr::new(address, to.port());
        // What the kernel is asked for comes last: most is decided without.
        let forbidden = is_special(address) || self.is_own(address);
        let allowed = self.names(target)
            || (!forbidden && (self.open || self.permits(target)) && !self.leads_to_host(address));
        (allowed && to.port() != 0).then_some(target)
    }

    /// Whether a name may be asked for: what is asked also tells, so where not everything is
    /// open, only the names of rules are.
    #[must_use]
    pub fn may_ask(&self, name: &str) -> bool {
        self.open || self.rules_of(name).next().is_some()
    }

    /// Whether any name may lead to this address.
    #[must_use]
    pub fn may_name(&self, address: IpAddr) -> bool {
        !self.is_forbidden(address)
    }

    /// Takes note of an answer to a question for `name`. False if it leads where no name may.
    pub fn pin(&mut self, name: &str, address: IpAddr) -> bool {
        if self.is_forbidden(address) {
            return false;
        }
        let ports: Ports = self.rules_of(name).map(|rule| rule.port).collect();
        if ports.is_empty() {
            return true;
        }
        if !self.pins.contains_key(&address) {
            if self.order.len() >= MAX_PINS
                && let Some(oldest) = self.order.pop_front()
            {
                self.pins.remove(&oldest);
            }
            self.order.push_back(address);
        }
        let pinned = self.pins.entry(address).or_default();
        for port in ports {
            if !pinned.contains(&port) {
                pinned.push(port);
            }
        }
        true
    }

    fn rules_of<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p Rule> {
        self.rules.iter().filter(move |rule| match &rule.to {
            Destination::Name {
                name: own,
                below: false,
            } => own == name,
            Destination::Name {
                name: own,
                below: true,
            } => name
                .strip_suffix(own.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Destination::Network { .. } => false,
        })
    }

    fn permits(&self, to: SocketAddr) -> bool {
        let port = |port: &Option<u16>| port.is_none_or(|port| port == to.port());
        let by_rule = self.rules.iter().any(|rule| match rule.to {
            Destination::Network { address, prefix } => {
                contains(address, prefix, to.ip()) && port(&rule.port)
            }
            Destination::Name { .. } => false,
        });
        by_rule
            || self
                .pins
                .get(&to.ip())
                .is_some_and(|ports| ports.iter().any(port))
    }

    /// Whether a rule names a forbidden address: by itself, or by a range that is forbidden
    /// as a whole. A wide range names nothing.
    fn names(&self, to: SocketAddr) -> bool {
        self.rules.iter().any(|rule| match rule.to {
            Destination::Network { address, prefix } => {
                let single = prefix == bits(address);
                contains(address, prefix, to.ip())
                    && rule.port.is_none_or(|port| port == to.port())
                    && (single || is_special_range(address, prefix))
            }
            Destination::Name { .. } => false,
        })
    }

    fn is_forbidden(&self, address: IpAddr) -> bool {
        is_special(address) || self.is_own(address) || self.leads_to_host(address)
    }

    /// Also where a translator or a tunnel, which may be this host, unwraps it.
    fn leads_to_host(&self, address: IpAddr) -> bool {
        (self.is_hosts_own)(address)
            || wrapped(address).is_some_and(|inner| (self.is_hosts_own)(inner.into()))
    }

    /// In the guest's own network there is nobody but the guest and its gateway.
    fn is_own(&self, address: IpAddr) -> bool {
        let own = &self.addresses;
        match address {
            IpAddr::V4(_) => contains(own.guest4.into(), own.prefix4, address),
            IpAddr::V6(_) => contains(own.guest6.into(), own.prefix6, address),
        }
    }
}

/// Addresses that mean this host, its link, its cloud, or nobody in particular; also where
/// one is wrapped in another (RFC 4291, 4380, and those of `wrapped`).
#[must_use]
pub fn is_special(address: IpAddr) -> bool {
    if METADATA.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V4(v4) => {
            v4.octets()[0] == 0 || v4.is_loopback() || v4.is_link_local() || v4.octets()[0] >= 224
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, ..] = v6.segments();
            match [a, b, c, d, e, f] {
                [0, 0, 0, 0, 0, _] => true,
                [0, 0, 0, 0, 0xffff, _] => true,
                // A translator's own prefix: where it leads nobody here can tell.
                [0x64, 0xff9b, 1, ..] => true,
                // Teredo: to wherever a datagram can be sent, past every rule.
                [0x2001, 0, ..] => true,
                _ if wrapped(address).is_some_and(|inner| is_special(inner.into())) => true,
                _ => v6.is_multicast() || v6.is_unicast_link_local() || (a & 0xffc0) == 0xfec0,
            }
        }
    }
}

/// The IPv4 address that a packet to this one ends at, where there is a translator (RFC 6052),
/// or a tunnel (6to4, RFC 3056; ISATAP, RFC 5214).
fn wrapped(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let (high, low) = match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => (high, low),
        [0x2002, high, low, ..] => (high, low),
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

fn is_special_range(address: IpAddr, prefix: u8) -> bool {
    const RANGES: [(IpAddr, u8); 4] = [
        (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
        (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
        (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
        (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    ];
    let within = |(range, bits)| prefix >= bits && contains(range, bits, address);
    RANGES.into_iter().any(within)
}

const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Whether `address` lies in `network/prefix`.
#[must_use]
pub fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let differing = match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return false,
    };
    differing >= u32::from(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(open: bool, rules: &[Rule]) -> Policy {
        let mut policy = Policy::new(Addresses::ALONE, open, rules.to_vec());
        policy.is_hosts_own = Box::new(|address| address == ip("198.51.100.1"));
        policy
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn network(text: &str, prefix: u8, port: Option<u16>) -> Rule {
        Rule {
            to: Destination::Network {
                address: ip(text),
                prefix,
            },
            port,
        }
    }

    fn name(text: &str, below: bool, port: Option<u16>) -> Rule {
        Rule {
            to: Destination::Name {
                name: text.into(),
                below,
            },
            port,
        }
    }

    fn reach(policy: &Policy, text: &str) -> bool {
        policy.target(text.parse().expect("an address")).is_some()
    }

    const SPECIAL: [&str; 22] = [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "100.100.100.200",
        "168.63.129.16",
        "::",
        "::1",
        "fe80::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "ff02::1",
        "fd00:ec2::254",
        "64:ff9b::a9fe:a9fe",
        "2001:0:cb00:7101::80ff:fffe",
        "2001:db8::5efe:7f00:1",
        "2001:db8::200:5efe:a9fe:a9fe",
    ];

    #[test]
    fn nothing_is_reached_without_a_rule() {
        let policy = policy(false, &[]);
        assert!(!reach(&policy, "203.0.113.1:80"));
        assert!(!reach(&policy, "[2001:db8::1]:80"));
    }

    #[test]
    fn what_is_special_is_not_reached_when_everything_is_open() {
        let wide = [network("0.0.0.0", 0, None), network("::", 0, None)];
        for policy in [policy(true, &[]), policy(true, &wide), policy(false, &wide)] {
            for address in SPECIAL {
                let to = SocketAddr::new(ip(address), 80);
                assert_eq!(policy.target(to), None, "{address}");
            }
            // The host's other addresses, and what stands for its loopback.
            assert!(!reach(&policy, "198.51.100.1:22"));
            assert!(!reach(&policy, "[64:ff9b::c633:6401]:22"));
            assert!(!reach(&policy, "[2002:c633:6401::1]:22"));
            assert!(!reach(&policy, "10.0.2.2:22"));
            assert!(!reach(&policy, "[fd68:7573:6b00::2]:22"));
            assert!(!reach(&policy, "10.0.2.77:22"));
            assert!(reach(&policy, "203.0.113.1:80"));
            assert!(reach(&policy, "[2001:db8::1]:80"));
            assert!(reach(&policy, "[64:ff9b::cb00:7101]:80"));
        }
    }

    #[test]
    fn a_rule_that_names_an_address_opens_it_and_no_other() {
        let policy = policy(
            false,
            &[
                network("127.0.0.1", 32, Some(5432)),
                network("169.254.0.0", 16, None),
                network("198.51.100.1", 32, None),
                network("192.0.2.0", 24, Some(443)),
            ],
        );
        let to = |text: &str| policy.target(text.parse().expect("an address"));
        assert_eq!(
            to("10.0.2.2:5432"),
            Some("127.0.0.1:5432".parse().expect("one"))
        );
        assert_eq!(to("10.0.2.2:5433"), None);
        assert_eq!(to("[fd68:7573:6b00::2]:5432"), None, "that is ::1");
        assert!(reach(&policy, "169.254.169.254:80"));
        assert!(reach(&policy, "198.51.100.1:22"));
        assert!(reach(&policy, "192.0.2.255:443") && !reach(&policy, "192.0.2.1:80"));
        assert!(!reach(&policy, "192.0.3.1:443"));
        assert!(!reach(&policy, "192.0.2.1:0"));
    }

    #[test]
    fn names_open_what_they_were_answered_with_and_never_what_is_special() {
        let mut policy = policy(
            false,
            &[
                name("a.example", false, Some(80)),
                name("b.example", true, None),
            ],
        );
        assert!(policy.may_ask("a.example") && policy.may_ask("x.b.example"));
        for other in [
            "b.example",
            "xa.example",
            "xb.example",
            ".b.example",
            "example",
            "",
        ] {
            assert!(!policy.may_ask(other), "{other}");
        }
        assert!(policy.pin("a.example", ip("203.0.113.1")));
        assert!(policy.pin("x.b.example", ip("203.0.113.2")));
        assert!(reach(&policy, "203.0.113.1:80") && !reach(&policy, "203.0.113.1:81"));
        assert!(reach(&policy, "203.0.113.2:81"));
        for address in SPECIAL {
            assert!(!policy.pin("a.example", ip(address)), "{address}");
            assert_eq!(policy.target(SocketAddr::new(ip(address), 80)), None);
        }
        assert!(!policy.pin("a.example", ip("198.51.100.1")));
    }

    #[test]
    fn pins_are_bounded() {
        let mut policy = policy(false, &[name("a.example", false, None)]);
        for low in 0..10_000u32 {
            policy.pin("a.example", Ipv4Addr::from_bits(0xcb00_0000 + low).into());
        }
        assert_eq!(
            (policy.pins.len(), policy.order.len()),
            (MAX_PINS, MAX_PINS)
        );
    }

    proptest! {
        #[test]
        fn an_address_that_wraps_a_special_one_is_special(host in 0x7f00_0000u32..0x8000_0000) {
            let v4 = Ipv4Addr::from_bits(host);
            prop_assert!(is_special(v4.into()));
            prop_assert!(is_special(v4.to_ipv6_mapped().into()));
        }
    }
}
