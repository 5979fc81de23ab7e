// SPDX-License-Identifier: Apache-2.0
//! The guest's place on its network: interface up, addresses, routes, name servers. Runs
//! in PID 1 only. Asks the kernel by netlink (rtnetlink(7)); there is no `ip` here.

use crate::command::failure;
use crate::rebirth;
use crate::sys;
use alloc::format;
use alloc::vec::Vec;
use core::net::IpAddr;
use husk_protocol::{Address, Failure, Network, Stage};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
/// NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE.
const FLAGS: u16 = 0x1 | 0x4 | 0x400;
/// NLM_F_REQUEST, NLM_F_ROOT, NLM_F_MATCH.
const LIST: u16 = 0x1 | 0x100 | 0x200;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Nobody else is there who could have the address: it is used at once.
const IFA_F_NODAD: u8 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;

/// What a restored machine does before it ends the connections of its past: what that sends
/// finds no way out, and nobody hears of it who talks to the machine it was.
pub fn go_silent(interface: &str) -> Result<(), Failure> {
    let Ok(index) = sys::interface_index(interface) else {
        return Ok(());
    };
    let socket = sys::netlink(libc::NETLINK_ROUTE);
    socket
        .and_then(|socket| sys::netlink_request(&socket, &link(index, 0, &[], 0)))
        .map_err(|errno| {
            let message = format!("taking the interface {interface} down");
            failure(Stage::Network, errno, message)
        })
}

/// Takes a new place, with nothing left of the one before: its addresses go here, its routes
/// and neighbours went when the interface was taken down.
pub fn join_anew(network: &Network) -> Result<(), Failure> {
    let name = &network.interface;
    if let Ok(index) = sys::interface_index(name) {
        leave(index, &network.mac).map_err(|errno| {
            let message = format!("giving up the addresses of {name}");
            failure(Stage::Network, errno, message)
        })?;
    }
    join(network)
}

fn leave(index: u32, mac: &[u8]) -> sys::Result<()> {
    /// struct ifaddrmsg, whose last word is the interface's index.
    const HEAD: usize = 8;
    let socket = sys::netlink(libc::NETLINK_ROUTE)?;
    let mut theirs: Vec<Vec<u8>> = Vec::new();
    sys::netlink_list(&socket, &framed(RTM_GETADDR, LIST, &[0; HEAD]), |item| {
        if item.get(4..HEAD) == Some(&index.to_ne_bytes()) {
            theirs.push(item.into());
        }
    })?;
    for item in theirs {
        match sys::netlink_request(&socket, &message(RTM_DELADDR, &item)) {
            // The kernel takes some along with others.
            Err(errno) if !errno.is(libc::EADDRNOTAVAIL) => return Err(errno),
            _ => {}
        }
    }
    if mac.iter().any(|byte| *byte != 0) {
        sys::netlink_request(&socket, &link(index, 0, mac, 0))?;
    }
    Ok(())
}

/// Takes the guest's place on its network.
pub fn join(network: &Network) -> Result<(), Failure> {
    let name = &network.interface;
    let failed = |what: &str| {
        let message = format!("{what} of {name}");
        move |errno| failure(Stage::Network, errno, message)
    };
    let index = match sys::interface_index(name) {
        Ok(index) => index,
        Err(_) => {
            // A kernel of the operator's own may have no driver for it, and no need.
            sys::log(format_args!("this kernel has no interface {name}"));
            return Ok(());
        }
    };
    let socket = sys::netlink(libc::NETLINK_ROUTE).map_err(failed("asking the kernel"))?;
    let ask = |message: &[u8]| sys::netlink_request(&socket, message);
    // In a machine of a template the address is that of whoever stood there.
    let mac = network.mac.iter().any(|byte| *byte != 0);
    let mac = if mac { &network.mac[..] } else { &[] };
    ask(&link(index, IFF_UP, mac, network.mtu)).map_err(failed("raising the interface"))?;
    for address in &network.addresses {
        let outcome = ask(&add_address(index, address));
        // A kernel without IPv6 does without.
        if address.ip.is_ipv4() {
            outcome.map_err(failed("setting an address"))?;
        }
    }
    for gateway in &network.gateways {
        let outcome = ask(&add_route(index, *gateway));
        if gateway.is_ipv4() {
            outcome.map_err(failed("setting the route"))?;
        }
    }
    Ok(())
}

/// Writes where names are looked up. An image may have a link there that leads nowhere; an
/// image without /etc looks nothing up.
pub fn name_servers(network: &Network) {
    if !network.resolv_conf.is_empty() {
        let path = c"/etc/resolv.conf";
        let _ = sys::remove_file(path);
        let _ = rebirth::replace(path, &network.resolv_conf);
    }
}

/// Sets an interface up or down, and its own address and its MTU where they are given.
fn link(index: u32, up: u32, mac: &[u8], mtu: u16) -> Vec<u8> {
    let mut body = Vec::from([0; 4]);
    body.extend(index.to_ne_bytes());
    body.extend(up.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    if !mac.is_empty() {
        attribute(&mut body, IFLA_ADDRESS, mac);
    }
    if mtu != 0 {
        attribute(&mut body, IFLA_MTU, &u32::from(mtu).to_ne_bytes());
    }
    message(RTM_NEWLINK, &body)
}

fn add_address(index: u32, address: &Address) -> Vec<u8> {
    let (family, bytes) = parts(address.ip);
    let flags = if address.ip.is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut body = Vec::from([family, address.prefix, flags, 0]);
    body.extend(index.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, &bytes);
    attribute(&mut body, IFA_ADDRESS, &bytes);
    message(RTM_NEWADDR, &body)
}

fn add_route(index: u32, gateway: IpAddr) -> Vec<u8> {
    let (family, bytes) = parts(gateway);
    let mut body = Vec::from([family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST]);
    body.extend([0; 4]);
    attribute(&mut body, RTA_GATEWAY, &bytes);
    attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
    message(RTM_NEWROUTE, &body)
}

/// The address family's number, and the address as it travels.
fn parts(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => (2, v4.octets().into()),
        IpAddr::V6(v6) => (10, v6.octets().into()),
    }
}

/// A request that is answered by a verdict.
fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    framed(kind, FLAGS, body)
}

/// A struct nlmsghdr and what follows it.
pub fn framed(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap_or(0);
    let mut bytes = Vec::from(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// A struct rtattr and its value, filled up to a multiple of four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(0);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_lie_as_the_kernel_reads_them() {
        let v4 = Address {
            ip: [10, 0, 2, 15].into(),
            prefix: 24,
        };
        assert_eq!(
            add_address(7, &v4),
            [
                40, 0, 0, 0, 20, 0, 5, 4, 0, 0, 0, 0, 0, 0, 0, 0, 2, 24, 0, 0, 7, 0, 0, 0, 8, 0, 2,
                0, 10, 0, 2, 15, 8, 0, 1, 0, 10, 0, 2, 15
            ]
        );
        assert_eq!(link(7, IFF_UP, &[], 0).len(), 32);
        assert_eq!(
            link(7, IFF_UP, &[], 1500)[32..],
            [8, 0, 4, 0, 0xdc, 5, 0, 0]
        );
        let moved = link(7, 0, &[2, 1, 2, 3, 4, 5], 0);
        assert_eq!(moved[..4], [44, 0, 0, 0]);
        assert_eq!(moved[32..], [10, 0, 1, 0, 2, 1, 2, 3, 4, 5, 0, 0]);
        let route = add_route(7, [10, 0, 2, 2].into());
        assert_eq!(route[16..28], [2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]);
        assert_eq!(
            route[28..],
            [8, 0, 5, 0, 10, 0, 2, 2, 8, 0, 4, 0, 7, 0, 0, 0]
        );
        let v6 = Address {
            ip: [0xfd; 16].into(),
            prefix: 64,
        };
        assert_eq!(add_address(1, &v6)[16..20], [10, 64, IFA_F_NODAD, 0]);
    }
}
