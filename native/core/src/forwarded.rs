//! The client's address behind trusted proxies. The reference is `budgateway/server/proxies.py`.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Hops read, from the right.
const MAX_HOPS: usize = 32;

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    address: u128,
    mask: u128,
    is_v6: bool,
}

/// A header value with bytes beyond ASCII: Python reads it, as Latin-1, which has more kinds of white space.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAscii;

/// The text is no block of addresses.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a block of addresses")]
pub struct BlockError(String);

impl FromStr for Block {
    type Err = BlockError;

    /// Reads `10.0.0.0/8` or `2001:db8::/32`.
    fn from_str(text: &str) -> Result<Self, BlockError> {
        let error = || BlockError(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let length: u32 = length.parse().map_err(|_| error())?;
        let width = if address.is_ipv6() { 128 } else { 32 };
        let free = u32::checked_sub(width, length).ok_or_else(error)?;
        let mask = u128::MAX.checked_shl(free).unwrap_or(0);
        Ok(Self {
            address: number(&address) & mask,
            mask,
            is_v6: address.is_ipv6(),
        })
    }
}

impl Block {
    fn has(&self, address: &IpAddr) -> bool {
        self.is_v6 == address.is_ipv6() && number(address) & self.mask == self.address
    }
}

/// The operator's trusted proxies, and the network by which limits count a client.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    blocks: Box<[Block]>,
    prefix: u32,
}

impl TrustedProxies {
    /// `prefix`: IPv6 addresses whose first `prefix` bits are equal count as one client.
    pub fn new(blocks: impl IntoIterator<Item = Block>, prefix: u32) -> Self {
        Self {
            blocks: blocks.into_iter().collect(),
            prefix,
        }
    }

    /// True when no proxy is trusted.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The client's address on a connection from `peer`, as far as trusted proxies wrote it. `lines` are the values of
    /// `X-Forwarded-For`, the last one first. `None`: the peer is the client.
    pub fn client<'a>(&self, peer: &str, lines: impl Iterator<Item = &'a [u8]>) -> Result<Option<IpAddr>, NotAscii> {
        let mut lines = lines.peekable();
        if lines.peek().is_none() || !parsed(peer).is_some_and(|peer| self.is_trusted(&peer)) {
            return Ok(None);
        }
        let mut client = None;
        let mut hops = 0;
        for line in lines {
            let line = std::str::from_utf8(line)
                .ok()
                .filter(|line| line.is_ascii())
                .ok_or(NotAscii)?;
            for hop in line.rsplit(',') {
                let address = parsed(hop.trim()).filter(|_| hops < MAX_HOPS);
                let Some(address) = address else { return Ok(client) };
                hops += 1;
                client = Some(address);
                if !self.is_trusted(&address) {
                    return Ok(client);
                }
            }
        }
        Ok(client)
    }

    /// The text by which limits count a client: its address, or its network.
    pub fn network(&self, client: &IpAddr) -> String {
        match client {
            IpAddr::V6(address)
                if self.prefix < 128 && !address.is_loopback() && address.segments()[0] & 0xffc0 != 0xfe80 =>
            {
                let mask = u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0);
                format!("{}/{}", Ipv6Addr::from(u128::from(*address) & mask), self.prefix)
            }
            other => other.to_string(),
        }
    }

    fn is_trusted(&self, address: &IpAddr) -> bool {
        self.blocks.iter().any(|block| block.has(address))
    }
}

fn number(address: &IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(*address)),
        IpAddr::V6(address) => u128::from(*address),
    }
}

/// An address as proxies write it: with a port or without, IPv6 in brackets or not.
fn parsed(text: &str) -> Option<IpAddr> {
    let text = match text.strip_prefix('[') {
        Some(inner) => inner.split_once(']').map_or(inner, |(address, _)| address),
        None => match text.split_once(':') {
            Some((address, port)) if !port.contains(':') => address,
            _ => text,
        },
    };
    let address: IpAddr = text.parse().ok()?;
    Some(match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        v4 => v4,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, lines: &[&str]) -> Option<String> {
        let blocks = ["10.0.0.0/8", "fd00::/8"].map(|block| block.parse().unwrap());
        let proxies = TrustedProxies::new(blocks, 64);
        let lines = lines.iter().rev().map(|line| line.as_bytes());
        proxies.client(peer, lines).unwrap().map(|address| address.to_string())
    }

    #[test]
    fn the_client_is_the_first_that_no_trusted_proxy_stands_for() {
        assert_eq!(client("10.0.0.1", &["203.0.113.7"]), Some("203.0.113.7".into()));
        assert_eq!(
            client("10.0.0.1", &["6.6.6.6, 203.0.113.7, 10.1.2.3"]),
            Some("203.0.113.7".into())
        );
        assert_eq!(
            client("10.0.0.1", &["6.6.6.6", "203.0.113.7 ,\t10.1.2.3:80"]),
            Some("203.0.113.7".into())
        );
        assert_eq!(client("fd00::1", &["[2001:db8::1]:443"]), Some("2001:db8::1".into()));
        assert_eq!(client("10.0.0.1", &["::ffff:9.9.9.9"]), Some("9.9.9.9".into()));
        assert_eq!(client("10.0.0.1", &["10.2.2.2"]), Some("10.2.2.2".into()));
    }

    #[test]
    fn other_peers_and_unreadable_entries_are_not_believed() {
        assert_eq!(client("192.0.2.1", &["203.0.113.7"]), None);
        assert_eq!(client("10.0.0.1", &[]), None);
        assert_eq!(client("10.0.0.1", &["203.0.113.7, unknown"]), None);
        assert_eq!(
            client("10.0.0.1", &["203.0.113.7, , 10.1.1.1"]),
            Some("10.1.1.1".into())
        );
        let many = vec!["10.0.0.9"; 40].join(", ");
        assert_eq!(
            client("10.0.0.1", &[&format!("9.9.9.9, {many}")]),
            Some("10.0.0.9".into())
        );
    }

    #[test]
    fn a_client_counts_as_its_network() {
        let proxies = TrustedProxies::new([], 64);
        let network = |text: &str| proxies.network(&text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2:3::4"), "2001:db8:1:2::/64");
        for alone in ["::1", "fe80::1", "192.0.2.1"] {
            assert_eq!(network(alone), alone);
        }
        assert_eq!(
            TrustedProxies::new([], 128).network(&"2001:db8::1".parse().unwrap()),
            "2001:db8::1"
        );
        assert_eq!(
            TrustedProxies::new([], 0).network(&"2001:db8::1".parse().unwrap()),
            "::/0"
        );
    }
}
