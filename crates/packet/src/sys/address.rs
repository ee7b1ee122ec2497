//! Socket addresses as the kernel has them.
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ptr;

/// Room for an address of any family.
#[derive(Clone, Copy)]
pub(crate) struct RawAddress {
    pub(super) storage: libc::sockaddr_storage,
    pub(super) len: libc::socklen_t,
}

/// A size that is known to be small.
#[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
const fn socklen(size: usize) -> libc::socklen_t {
    size as libc::socklen_t
}

/// As above.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "single digits")]
const fn family(family: libc::c_int) -> libc::sa_family_t {
    family as libc::sa_family_t
}

impl RawAddress {
    /// Room to be filled by the kernel.
    pub(crate) fn empty() -> Self {
        // SAFETY: the structure holds integers only, for which zeros are values.
        let storage = unsafe { MaybeUninit::zeroed().assume_init() };
        Self { storage, len: socklen(size_of::<libc::sockaddr_storage>()) }
    }

    pub(crate) fn new(address: &SocketAddr) -> Self {
        let mut raw = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                let filled = libc::sockaddr_in {
                    sin_family: family(libc::AF_INET),
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                raw.put(filled);
            }
            SocketAddr::V6(v6) => {
                let filled = libc::sockaddr_in6 {
                    sin6_family: family(libc::AF_INET6),
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                raw.put(filled);
            }
        }
        raw
    }

    fn put<T: Copy>(&mut self, address: T) {
        const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>()) };
        const { assert!(mem::align_of::<T>() <= mem::align_of::<libc::sockaddr_storage>()) };
        // SAFETY: the storage is large enough and aligned for every `T` that passes the assertions above.
        unsafe { ptr::from_mut(&mut self.storage).cast::<T>().write(address) }
        self.len = socklen(size_of::<T>());
    }

    fn get<T: Copy>(&self) -> T {
        const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>()) };
        // SAFETY: as for `put`; only structures of integers are asked for, for which any bytes are values.
        unsafe { ptr::from_ref(&self.storage).cast::<T>().read() }
    }

    /// The address, if it is one of IP.
    pub(crate) fn to_socket_addr(self) -> Option<SocketAddr> {
        match libc::c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                let v4: libc::sockaddr_in = self.get();
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                let v6: libc::sockaddr_in6 = self.get();
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_come_back(v4: [u8; 4], v6: [u8; 16], port: u16, flow: u32, scope: u32) {
            let v4 = SocketAddr::from((v4, port));
            let v6 = SocketAddr::from(SocketAddrV6::new(v6.into(), port, flow, scope));
            prop_assert_eq!(RawAddress::new(&v4).to_socket_addr(), Some(v4));
            prop_assert_eq!(RawAddress::new(&v6).to_socket_addr(), Some(v6));
        }
    }

    #[test]
    fn other_families_are_none() {
        assert_eq!(RawAddress::empty().to_socket_addr(), None);
    }
}
