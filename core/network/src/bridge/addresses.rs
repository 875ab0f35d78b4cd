//! Which addresses of the node's ranges are taken.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::error::NetworkError;

/// The addresses of one range. The first one is the gateway's. Addresses are given in turn, so that one that was
/// given back rests as long as possible before it means another pod.
#[derive(Debug)]
pub(super) struct AddressPool {
    range: IpNet,
    taken: HashSet<IpAddr>,
    /// Where the search for a free one starts, as the distance from the range's first address.
    next: u128,
}

const OFFSET_FIRST: u128 = 2;

impl AddressPool {
    pub(super) fn new(range: IpNet) -> Result<Self, NetworkError> {
        let pool = Self { range: range.trunc(), taken: HashSet::new(), next: OFFSET_FIRST };
        if pool.offset_last() < OFFSET_FIRST {
            return Err(NetworkError::Setting {
                setting: format!("pod range {range}"),
                reason: "has no room for a gateway and a pod",
            });
        }
        Ok(pool)
    }

    pub(super) fn range(&self) -> IpNet {
        self.range
    }

    /// The bridge's address.
    pub(super) fn gateway(&self) -> IpAddr {
        self.at(1)
    }

    /// The last usable distance: the last address of an IPv4 range is its broadcast address.
    fn offset_last(&self) -> u128 {
        let host_bits = u32::from(self.range.max_prefix_len() - self.range.prefix_len());
        let last = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
        if matches!(self.range, IpNet::V4(_)) { last.saturating_sub(1) } else { last }
    }

    fn at(&self, offset: u128) -> IpAddr {
        match self.range.network() {
            // The offset lies inside the range, so it fits.
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from(u32::from(first) | offset as u32)),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from(u128::from(first) | offset)),
        }
    }

    fn offset_of(&self, ip: IpAddr) -> Option<u128> {
        match (self.range.network(), ip) {
            (IpAddr::V4(first), IpAddr::V4(ip)) if self.range.contains(&IpAddr::V4(ip)) => {
                Some(u128::from(u32::from(ip) - u32::from(first)))
            }
            (IpAddr::V6(first), IpAddr::V6(ip)) if self.range.contains(&IpAddr::V6(ip)) => {
                Some(u128::from(ip) - u128::from(first))
            }
            _ => None,
        }
    }

    /// Takes the next free address.
    pub(super) fn allocate(&mut self) -> Result<IpAddr, NetworkError> {
        let last = self.offset_last();
        // One more try than addresses are taken finds a free one, if there is one.
        let tries = (self.taken.len() as u128 + 1).min(last - OFFSET_FIRST + 1);
        let mut offset = self.next;
        for _ in 0..tries {
            if offset > last {
                offset = OFFSET_FIRST;
            }
            let ip = self.at(offset);
            offset += 1;
            if self.taken.insert(ip) {
                self.next = offset;
                return Ok(ip);
            }
        }
        Err(NetworkError::AddressesExhausted { range: self.range.to_string() })
    }

    /// Marks an address as taken that an earlier process gave; the search goes on behind it.
    pub(super) fn adopt(&mut self, ip: IpAddr) {
        if let Some(offset) = self.offset_of(ip) {
            self.taken.insert(ip);
            self.next = offset + 1;
        }
    }

    /// Gives an address back.
    pub(super) fn release(&mut self, ip: IpAddr) {
        self.taken.remove(&ip);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(range: &str) -> AddressPool {
        AddressPool::new(range.parse().expect("a range")).expect("a pool")
    }

    #[test]
    fn addresses_are_given_in_turn() {
        let mut four = pool("10.244.1.0/29");
        assert_eq!(four.gateway().to_string(), "10.244.1.1");
        let given: Vec<String> = (0..5).map(|_| four.allocate().expect("free").to_string()).collect();
        assert_eq!(given, ["10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6"]);
        assert_eq!(four.allocate().expect_err("full").to_string(), "no free pod address left in 10.244.1.0/29");
        four.release("10.244.1.4".parse().expect("an address"));
        assert_eq!(four.allocate().expect("free").to_string(), "10.244.1.4");

        let mut rests = pool("10.244.1.0/24");
        let first = rests.allocate().expect("free");
        rests.release(first);
        assert_ne!(rests.allocate().expect("free"), first);

        let mut six = pool("fd00:10:244:1::/64");
        assert_eq!(six.gateway().to_string(), "fd00:10:244:1::1");
        assert_eq!(six.allocate().expect("free").to_string(), "fd00:10:244:1::2");
        assert!(AddressPool::new("10.0.0.0/31".parse().expect("a range")).is_err());
        assert!(AddressPool::new("10.0.0.0/32".parse().expect("a range")).is_err());
    }

    #[test]
    fn adopted_addresses_stay_taken() {
        let mut pool = pool("10.244.1.0/24");
        pool.adopt("10.244.1.9".parse().expect("an address"));
        pool.adopt("10.9.9.9".parse().expect("an address"));
        assert_eq!(pool.allocate().expect("free").to_string(), "10.244.1.10");
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(steps in proptest::collection::vec(any::<Option<u8>>(), 0..400)) {
            let mut pool = pool("10.0.0.0/26");
            let mut held: Vec<IpAddr> = Vec::new();
            for step in steps {
                match step {
                    Some(which) if !held.is_empty() => {
                        let ip = held.swap_remove(usize::from(which) % held.len());
                        pool.release(ip);
                    }
                    _ => match pool.allocate() {
                        Ok(ip) => {
                            prop_assert!(!held.contains(&ip) && ip != pool.gateway());
                            prop_assert!(pool.range().contains(&ip));
                            held.push(ip);
                        }
                        Err(_) => prop_assert_eq!(held.len(), 61),
                    },
                }
            }
        }
    }
}
