//! Which addresses are public. Everything that IANA's special-purpose registries (RFC 6890 and successors) do not call
//! globally reachable is not, and neither is an address that only wraps another one: an IPv4 address inside IPv6 would
//! have to be judged by rules that the network may not share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

const NOT_PUBLIC_V4: [Ipv4Net; 17] = [
    v4(0, 0, 0, 0, 8),        // this network
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // carrier-grade NAT; Alibaba Cloud's metadata is in it
    v4(127, 0, 0, 0, 8),      // loopback
    v4(168, 63, 129, 16, 32), // Azure's host agent, on every Azure machine
    v4(169, 254, 0, 0, 16),   // link-local; the usual metadata address is in it
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocol assignments; Oracle Cloud's metadata is in it
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 31, 196, 0, 24),  // AS112
    v4(192, 88, 99, 0, 24),   // 6to4 relays
    v4(192, 168, 0, 0, 16),   // private
    v4(198, 18, 0, 0, 15),    // benchmarking
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved and broadcast
];

/// Global unicast. What is outside of it is loopback, mapped, NAT64, unique local, link-local, multicast or unassigned.
const UNICAST_V6: Ipv6Net = v6(0x2000, 0, 0, 3);

const NOT_PUBLIC_V6: [Ipv6Net; 5] = [
    v6(0x2001, 0, 0, 23),         // protocol assignments: Teredo, ORCHID, benchmarking
    v6(0x2001, 0xdb8, 0, 32),     // documentation
    v6(0x2002, 0, 0, 16),         // 6to4
    v6(0x2620, 0x4f, 0x8000, 48), // AS112
    v6(0x3fff, 0, 0, 20),         // documentation
];

/// Addresses that a manifest may grant one by one, for development and for networks of the deployer's own.
const GRANTABLE_V4: [Ipv4Net; 5] =
    [v4(10, 0, 0, 0, 8), v4(100, 64, 0, 0, 10), v4(127, 0, 0, 0, 8), v4(172, 16, 0, 0, 12), v4(192, 168, 0, 0, 16)];
const GRANTABLE_V6: Ipv6Net = v6(0xfc00, 0, 0, 7);

/// Metadata services inside of grantable networks: they hand out the machine's credentials, so no manifest grants them.
const METADATA: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254))];

/// Whether any function with a matching policy may connect to `ip`.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !NOT_PUBLIC_V4.iter().any(|net| net.contains(&ip)),
        IpAddr::V6(ip) => UNICAST_V6.contains(&ip) && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&ip)),
    }
}

/// Whether a manifest may grant `ip` by naming it although it is not public.
pub(super) fn is_grantable(ip: IpAddr) -> bool {
    !METADATA.contains(&ip)
        && match ip {
            IpAddr::V4(ip) => GRANTABLE_V4.iter().any(|net| net.contains(&ip)),
            IpAddr::V6(ip) => ip.is_loopback() || GRANTABLE_V6.contains(&ip),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_public_addresses_from_others_at_their_edges() {
        let public = "1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 172.15.255.255 \
                      172.32.0.0 169.253.255.255 192.0.1.0 198.17.255.255 198.20.0.0 223.255.255.255 \
                      2606:4700::1111 2001:200:: 2a00:: 2003::";
        for ip in public.split_whitespace() {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
        let other = "0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.0 100.100.100.200 127.0.0.1 127.255.255.255 168.63.129.16 \
                     169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 \
                     198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 \
                     :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:1.1.1.1 64:ff9b::7f00:1 64:ff9b:1::1 100::1 2001::1 \
                     2001:db8::1 2002:7f00:1:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1";
        for ip in other.split_whitespace() {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn grants_neither_metadata_nor_wrapped_nor_public_addresses() {
        for ip in ["127.0.0.1", "10.1.2.3", "192.168.1.1", "::1", "fd12::1"] {
            assert!(is_grantable(ip.parse().unwrap()), "{ip}");
        }
        for ip in
            ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "0.0.0.0", "::", "::ffff:127.0.0.1", "1.1.1.1"]
        {
            assert!(!is_grantable(ip.parse().unwrap()), "{ip}");
        }
    }
}
