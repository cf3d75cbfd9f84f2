//! `SkLookup`: the question which socket a packet goes to. Its first bytes are the kernel's `struct bpf_sk_lookup_kern`.
//!
//! # Source
//! BPF_PROG_TEST_RUN of Linux 6.18 (fixtures/oracle/syscall/sk_lookup.txt).

use std::sync::Arc;

use ring3_uapi::Errno;

use super::{
    Sock,
    layout::bpf_sk_lookup_kern as at,
    object::Object,
    sock::{SockQuery, family, state},
};
use crate::bind::implement;

/// A chosen socket may be replaced. Source: `BPF_SK_LOOKUP_F_REPLACE`.
const REPLACE: u64 = 1;
/// The chosen socket does not pass the packet on to its group. Source: `BPF_SK_LOOKUP_F_NO_REUSEPORT`.
const NO_REUSEPORT: u64 = 2;

/// A packet's way, and the socket that a program chose for it.
#[repr(C)]
pub struct SkLookup {
    object: Object<{ at::BYTES }>,
    /// Remote and local address, which an IPv6 question points to.
    addresses: [[u8; 16]; 2],
    selected: Option<Arc<Sock>>,
}

impl SkLookup {
    /// A question; its source is what programs call remote.
    ///
    /// # Errors
    /// EAFNOSUPPORT: neither IPv4 nor IPv6.
    pub fn new(query: &SockQuery) -> Result<Box<SkLookup>, Errno> {
        let mut this = Box::new(SkLookup {
            object: Object::zeroed(),
            addresses: [query.source.0, query.destination.0],
            selected: None,
        });
        let [remote, local] = this.addresses.each_ref().map(|address| {
            let pointer = std::ptr::from_ref(address).expose_provenance() as u64;
            (pointer, *address)
        });
        let object = &mut this.object;
        object.set_u16(at::FAMILY, query.family);
        object.set_u16(at::PROTOCOL, query.protocol);
        object.set(at::SPORT, &query.source.1.to_be_bytes());
        object.set_u16(at::DPORT, query.destination.1);
        match query.family {
            family::INET => {
                object.set(at::V4_SADDR, &remote.1[..4]);
                object.set(at::V4_DADDR, &local.1[..4]);
            }
            family::INET6 => {
                object.set_u64(at::V6_SADDR, remote.0);
                object.set_u64(at::V6_DADDR, local.0);
            }
            _ => return Err(Errno::EAFNOSUPPORT),
        }
        Ok(this)
    }

    /// Forgets what was chosen.
    pub fn begin(&mut self) {
        self.select(None, 0);
    }

    /// The socket that was chosen.
    pub fn selected(&self) -> Option<&Arc<Sock>> {
        self.selected.as_ref()
    }

    fn select(&mut self, sock: Option<Arc<Sock>>, flags: u64) {
        let address = sock.as_ref().map_or(0, |sock| sock.program_ptr());
        self.object.set_u64(at::SELECTED_SK, address);
        self.object
            .set_u8(at::NO_REUSEPORT, u8::from(flags & NO_REUSEPORT != 0));
        if let Some(before) = std::mem::replace(&mut self.selected, sock) {
            // The program may have read its address.
            ring3_sync::rcu::drop_rcu(before);
        }
    }

    /// `bpf_sk_assign`.
    ///
    /// # Errors
    /// EINVAL: unknown flags. ESOCKTNOSUPPORT: neither a listening TCP socket nor an unconnected UDP socket. EPROTOTYPE: of another protocol.
    /// EAFNOSUPPORT: of another family, unless it is an IPv6 socket. EEXIST: there is one. Source: bpf-helpers(7); not recorded with sockets.
    fn assign(&mut self, sock: Option<&Sock>, flags: u64) -> Result<(), Errno> {
        if flags & !(REPLACE | NO_REUSEPORT) != 0 {
            return Err(Errno::EINVAL);
        }
        if let Some(sock) = sock {
            let spec = sock.spec();
            let is_ready = if sock.is_full_tcp() {
                spec.state == state::LISTEN
            } else {
                sock.is_full_udp() && spec.state == state::CLOSE
            };
            if !is_ready {
                return Err(Errno::ESOCKTNOSUPPORT);
            }
            if spec.protocol != self.object.u16(at::PROTOCOL) {
                return Err(Errno::EPROTOTYPE);
            }
            if spec.family != self.object.u16(at::FAMILY) && spec.family == family::INET {
                return Err(Errno::EAFNOSUPPORT);
            }
        }
        if self.selected.is_some() && flags & REPLACE == 0 {
            return Err(Errno::EEXIST);
        }
        self.select(sock.map(Sock::to_arc), flags);
        Ok(())
    }

    /// The pointer that programs get as their context.
    pub fn program_ptr(&mut self) -> u64 {
        std::ptr::from_mut(self).expose_provenance() as u64
    }
}

implement! { VARIANTS:
    SkAssignLookup(lookup: &mut SkLookup, sk: Option<&Sock>, flags: u64) { lookup.assign(sk, flags) }
}

#[cfg(test)]
mod tests {
    use super::super::SockSpec;
    use super::*;

    const HERE: ([u8; 16], u16) = ([0; 16], 80);

    fn question(family: u16) -> Box<SkLookup> {
        let query = SockQuery {
            family,
            protocol: 6,
            source: ([1; 16], 1234),
            destination: HERE,
        };
        SkLookup::new(&query).unwrap()
    }

    fn socket(family: u16, state: u8) -> Arc<Sock> {
        let spec = SockSpec::tcp(family, state, HERE, Default::default());
        Sock::new(SockSpec { cookie: 7, ..spec })
    }

    #[test]
    fn sockets_that_wait_are_chosen_once_unless_replaced() {
        let mut lookup = question(family::INET);
        let (first, second) = (
            socket(family::INET, state::LISTEN),
            socket(family::INET6, state::LISTEN),
        );
        assert_eq!(lookup.assign(Some(&first), 0), Ok(()));
        assert_eq!(lookup.object.u64(at::SELECTED_SK), first.program_ptr());
        assert_eq!(lookup.assign(Some(&second), 0), Err(Errno::EEXIST));
        assert_eq!(lookup.assign(None, 0), Err(Errno::EEXIST));
        assert_eq!(lookup.assign(Some(&second), REPLACE | NO_REUSEPORT), Ok(()));
        assert!(Arc::ptr_eq(lookup.selected().unwrap(), &second));
        assert_eq!(lookup.object.u8(at::NO_REUSEPORT), 1);
        assert_eq!(lookup.assign(None, REPLACE), Ok(()));
        assert!(lookup.selected().is_none());
        assert_eq!(lookup.object.u64(at::SELECTED_SK), 0);
        lookup.assign(Some(&second), 0).unwrap();
        lookup.begin();
        ring3_sync::rcu::barrier().unwrap();
        assert_eq!(
            (Arc::strong_count(&first), Arc::strong_count(&second)),
            (1, 1)
        );
    }

    #[test]
    fn sockets_that_do_not_fit_are_refused() {
        let listening = socket(family::INET, state::LISTEN);
        let mut lookup = question(family::INET);
        assert_eq!(lookup.assign(Some(&listening), 4), Err(Errno::EINVAL));
        let connected = socket(family::INET, state::ESTABLISHED);
        assert_eq!(
            lookup.assign(Some(&connected), 0),
            Err(Errno::ESOCKTNOSUPPORT)
        );
        let datagrams = Sock::new(SockSpec::udp(family::INET, HERE, Default::default()));
        assert_eq!(lookup.assign(Some(&datagrams), 0), Err(Errno::EPROTOTYPE));
        let mut other = question(family::INET6);
        assert_eq!(other.assign(Some(&listening), 0), Err(Errno::EAFNOSUPPORT));
        assert!(lookup.selected().is_none() && other.selected().is_none());
        let query = SockQuery {
            family: family::UNIX,
            protocol: 0,
            source: HERE,
            destination: HERE,
        };
        assert_eq!(SkLookup::new(&query).err(), Some(Errno::EAFNOSUPPORT));
    }
}
