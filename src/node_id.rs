//! How to reach one rank's endpoint: 24 plain bytes that fit any message.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Where one rank's endpoint answers, and which rank that is.
///
/// The original's `nodeid_t` held an IPv4 address and a port; this one holds either family, and the rank.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId {
    address: [u8; 16],
    port: u16,
    rank: u32,
}

impl NodeId {
    /// A rank with an endpoint at `address`, or with none.
    pub fn new(rank: u32, address: Option<SocketAddr>) -> Self {
        match address {
            None => Self { address: [0; 16], port: 0, rank },
            Some(at) => {
                let v6 = match at.ip() {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                Self { address: v6.octets(), port: at.port(), rank }
            }
        }
    }

    pub(crate) fn from_parts(rank: u32, address: [u8; 16], port: u16) -> Self {
        Self { address, port, rank }
    }

    pub(crate) fn parts(&self) -> ([u8; 16], u16) {
        (self.address, self.port)
    }

    /// The rank.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Where its endpoint answers; `None` when it has none.
    pub fn address(&self) -> Option<SocketAddr> {
        let ip = Ipv6Addr::from(self.address);
        let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
        (self.port != 0).then(|| SocketAddr::new(ip, self.port))
    }

    /// The address of its first page, empty when it has none.
    pub fn url(&self) -> String {
        self.address().map_or_else(String::new, |at| format!("http://{at}/"))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(at) => write!(f, "rank {} at {at}", self.rank),
            None => write!(f, "rank {}", self.rank),
        }
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_and_none_survive_the_wire_form() {
        for at in [Some("10.1.2.3:1990"), Some("[fe80::1]:80"), None] {
            let at = at.and_then(|text| text.parse().ok());
            let id = NodeId::new(7, at);
            let (address, port) = id.parts();
            assert_eq!(NodeId::from_parts(7, address, port).address(), at);
        }
        assert_eq!(NodeId::new(7, None).url(), "");
        assert_eq!(NodeId::new(7, "127.0.0.1:1990".parse().ok()).to_string(), "rank 7 at 127.0.0.1:1990");
    }
}
