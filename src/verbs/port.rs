//! A device's ports and their GIDs: which are there, and which to use.

use std::fmt;
use std::fs;
use std::net::Ipv6Addr;

use rdma_sys::{ibv_gid, ibv_port_attr, ibv_port_state};

use super::context::Context;

/// `link_layer` of a port on Ethernet (`IBV_LINK_LAYER_ETHERNET`, which the bindings have not).
const ETHERNET: u8 = 2;

/// The port and the GID that a device is used by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// From 1.
    pub number: u8,
    pub ethernet: bool,
    /// Its address on InfiniBand; 0 on Ethernet.
    pub lid: u16,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Bytes of the largest message.
    pub most: u32,
    pub gid: Gid,
}

/// What a GID says of the packets that carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GidKind {
    RoceV2,
    /// InfiniBand, RoCE version 1, or unknown.
    Other,
}

/// An entry of a port's table of GIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gid {
    pub index: u8,
    pub address: Ipv6Addr,
    pub kind: GidKind,
}

impl Gid {
    /// What to prefer on Ethernet, the least first: RoCE v2 over IPv4, over IPv6, over its link-local addresses; the rest.
    fn preference(&self) -> (GidKind, bool, bool, u8) {
        let (v4, local) = (self.address.to_ipv4_mapped().is_some(), self.address.is_unicast_link_local());
        (self.kind, !v4, local, self.index)
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind == GidKind::RoceV2 { "RoCE v2, " } else { "" };
        write!(f, "{} ({kind}{})", self.index, self.address)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {}, ", self.number)?;
        if self.ethernet {
            write!(f, "Ethernet")?
        } else {
            write!(f, "InfiniBand, LID {}", self.lid)?
        }
        write!(f, ", MTU {}, messages up to {} bytes, GID {}", self.mtu, self.most, self.gid)
    }
}

impl Port {
    /// The port `number` of a device (0: its first active one), and the GID of this index (none: the best).
    ///
    /// # Errors
    /// In words: no such port, it is not active, no such GID.
    pub(crate) fn choose(context: &Context, number: u8, gid_index: Option<u8>) -> Result<Self, String> {
        let ports = context.ports();
        let (number, port) = active(&ports, number)?;
        let ethernet = port.link_layer == ETHERNET;
        let gid = choose_gid(&gids(context, number, port), ethernet, gid_index)
            .map_err(|why| format!("{why} (port {number})"))?;
        let mtu = if (1..=5).contains(&port.active_mtu) { 128 << port.active_mtu } else { 0 };
        Ok(Self { number, ethernet, lid: port.lid, mtu, most: port.max_msg_sz, gid })
    }
}

/// The port of this number, or the first active one for 0.
fn active(ports: &[(u8, ibv_port_attr)], number: u8) -> Result<(u8, &ibv_port_attr), String> {
    let is_active = |port: &ibv_port_attr| port.state == ibv_port_state::IBV_PORT_ACTIVE;
    let wanted = ports.iter().find(|(n, port)| if number == 0 { is_active(port) } else { *n == number });
    match wanted {
        Some((n, port)) if is_active(port) => Ok((*n, port)),
        Some((n, port)) => Err(format!(
            "port {n} is {}; bring its link up, or let lunasa.verbs.port = 0 find another",
            state(port.state)
        )),
        None if number == 0 => {
            let found: Vec<String> =
                ports.iter().map(|(n, port)| format!("port {n} is {}", state(port.state))).collect();
            Err(format!("no port is active ({}); bring a link up", found.join(", ")))
        }
        None => Err(format!("lunasa.verbs.port = {number}: it has {} port(s), counted from 1", ports.len())),
    }
}

fn state(state: ibv_port_state::Type) -> &'static str {
    match state {
        ibv_port_state::IBV_PORT_DOWN => "down",
        ibv_port_state::IBV_PORT_INIT => "initialising (on InfiniBand: waiting for a subnet manager)",
        ibv_port_state::IBV_PORT_ARMED => "armed",
        ibv_port_state::IBV_PORT_ACTIVE => "active",
        _ => "in an unknown state",
    }
}

/// Every GID of a port that is not empty.
fn gids(context: &Context, number: u8, port: &ibv_port_attr) -> Vec<Gid> {
    let indices = 0..=u8::try_from(port.gid_tbl_len.saturating_sub(1)).unwrap_or(u8::MAX);
    let found = indices.filter_map(|index| {
        let gid: ibv_gid = context.gid(number, index)?;
        // SAFETY: any bytes are a valid value of this field, and the device filled all of them.
        let address = Ipv6Addr::from(unsafe { gid.raw });
        let types = format!("/sys/class/infiniband/{}/ports/{number}/gid_attrs/types/{index}", context.name());
        let kind = if address.is_unspecified() { String::new() } else { fs::read_to_string(types).unwrap_or_default() };
        let kind = if kind.trim() == "RoCE v2" { GidKind::RoceV2 } else { GidKind::Other };
        (!address.is_unspecified()).then_some(Gid { index, address, kind })
    });
    found.collect()
}

fn choose_gid(gids: &[Gid], ethernet: bool, index: Option<u8>) -> Result<Gid, String> {
    let chosen = match index {
        Some(index) => gids.iter().find(|gid| gid.index == index),
        None if ethernet => gids.iter().min_by_key(|gid| gid.preference()),
        None => gids.first(),
    };
    chosen.cloned().ok_or_else(|| {
        let there: Vec<String> = gids.iter().map(Gid::to_string).collect();
        let there =
            if there.is_empty() { "none; give the network interface an address".to_owned() } else { there.join(", ") };
        match index {
            Some(index) => format!("lunasa.verbs.gid_index = {index}: there is no such GID; there are: {there}"),
            None => format!("there is no GID; there are: {there}"),
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn gid(index: u8, kind: GidKind, address: &str) -> Gid {
        Gid { index, address: address.parse().unwrap(), kind }
    }

    fn port(state: ibv_port_state::Type) -> ibv_port_attr {
        // SAFETY: plain numbers, of which zero is a valid value.
        ibv_port_attr { state, ..unsafe { std::mem::zeroed() } }
    }

    #[test]
    fn routable_gids_come_first_and_ipv4_before_all() {
        let (v2, other) = (GidKind::RoceV2, GidKind::Other);
        let mut gids = vec![
            gid(0, other, "fe80::1"),
            gid(1, v2, "fe80::1"),
            gid(2, other, "::ffff:10.9.0.1"),
            gid(4, v2, "2001:db8::7"),
            gid(7, v2, "::ffff:10.9.0.1"),
            gid(9, v2, "::ffff:10.9.0.2"),
        ];
        let mut order = Vec::new();
        while let Ok(best) = choose_gid(&gids, true, None) {
            gids.retain(|gid| *gid != best);
            order.push(best.index);
        }
        assert_eq!(order, [7, 9, 4, 1, 2, 0]);
    }

    #[test]
    fn on_infiniband_the_first_gid_serves_and_a_wrong_index_is_told_what_there_is() {
        let gids = [gid(0, GidKind::Other, "fe80::1"), gid(1, GidKind::Other, "fe80::2")];
        assert_eq!(choose_gid(&gids, false, None).unwrap().index, 0);
        assert_eq!(choose_gid(&gids, true, Some(1)).unwrap().index, 1);
        let why = choose_gid(&gids, true, Some(2)).unwrap_err();
        assert_eq!(why, "lunasa.verbs.gid_index = 2: there is no such GID; there are: 0 (fe80::1), 1 (fe80::2)");
        assert!(choose_gid(&[], true, None).unwrap_err().contains("give the network interface an address"));
    }

    #[test]
    fn the_first_active_port_serves_unless_one_is_named() {
        let ports = [(1, port(ibv_port_state::IBV_PORT_DOWN)), (2, port(ibv_port_state::IBV_PORT_ACTIVE))];
        assert_eq!(active(&ports, 0).map(|(n, _)| n), Ok(2));
        assert_eq!(active(&ports, 2).map(|(n, _)| n), Ok(2));
        let refusal = |ports: &[_], number| active(ports, number).map(|(n, _)| n).unwrap_err();
        assert!(refusal(&ports, 1).starts_with("port 1 is down; "));
        assert!(refusal(&ports, 3).starts_with("lunasa.verbs.port = 3: it has 2 port(s)"));
        assert!(refusal(&ports[..1], 0).starts_with("no port is active (port 1 is down)"));
    }
}
