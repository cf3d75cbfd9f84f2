//! `Sock`: a modelled socket. Its first bytes are the kernel's `struct sock` (and `tcp_sock`, `udp6_sock`, ...: one memory serves all), of which
//! the fields that programs read through `struct bpf_sock` are kept; all else is zero.
//!
//! Sockets come from hooks (the socket of a packet) and from the tables of a [`super::PacketWorld`], which look-ups ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ring3_btf::layout;
use ring3_maps::fd::StorageKind;
use ring3_maps::local_storage::forget_owner;
use ring3_sync::rcu;
use ring3_uapi::Errno;

use super::object::Object;

/// Bytes of the object: as long as the longest kind of socket, `tcp6_sock`.
const BYTES: usize = 2560;

/// Numbers of `AF_*`.
pub mod family {
    /// `AF_UNIX`
    pub const UNIX: u16 = 1;
    /// `AF_INET`
    pub const INET: u16 = 2;
    /// `AF_INET6`
    pub const INET6: u16 = 10;
}

/// Numbers of `TCP_*`, which sockets of other kinds use too.
pub mod state {
    /// Connected.
    pub const ESTABLISHED: u8 = 1;
    /// Closed, but remembered.
    pub const TIME_WAIT: u8 = 6;
    /// Not connected.
    pub const CLOSE: u8 = 7;
    /// Waits for connections.
    pub const LISTEN: u8 = 10;
    /// A request for a connection.
    pub const NEW_SYN_RECV: u8 = 12;
}

const SOCK_STREAM: u16 = 1;
const SOCK_DGRAM: u16 = 2;
pub(super) const PROTOCOL_TCP: u16 = 6;
pub(super) const PROTOCOL_UDP: u16 = 17;

/// An address with its port; IPv4 addresses are the first four bytes, all zero is any.
pub type Endpoint = ([u8; 16], u16);

/// What a socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SockSpec {
    /// See [`family`].
    pub family: u16,
    /// `SOCK_*`: 1 for streams, 2 for datagrams.
    pub sock_type: u16,
    /// `IPPROTO_*`
    pub protocol: u16,
    /// See [`state`].
    pub state: u8,
    /// Own address.
    pub local: Endpoint,
    /// Peer.
    pub remote: Endpoint,
    /// `SO_MARK`
    pub mark: u32,
    /// `SO_PRIORITY`
    pub priority: u32,
    /// `SO_BINDTODEVICE`, 0 for none.
    pub bound_ifindex: u32,
    /// Cookie of the socket, 0 for none.
    pub cookie: u64,
    /// Its owner.
    pub uid: u32,
    /// Ids of its cgroup and that one's ancestors, the root first.
    pub cgroups: Vec<u64>,
    /// Class of the group, 0 for none.
    pub classid: u32,
    /// What further options read as.
    pub options: Vec<SockOption>,
}

/// An option of a socket, as getsockopt(2) reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SockOption {
    /// `SOL_SOCKET`, `IPPROTO_TCP`, ...
    pub level: i32,
    /// `SO_*`, `TCP_*`, ...
    pub name: i32,
    /// What it is.
    pub value: SockOptionValue,
}

/// The value of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SockOptionValue {
    /// A number, read as four bytes.
    Int(i32),
    /// A text, such as the name of an algorithm, read with zeros behind it or cut.
    Text(String),
}

impl SockSpec {
    /// A TCP socket over IPv4 or IPv6.
    pub fn tcp(family: u16, state: u8, local: Endpoint, remote: Endpoint) -> SockSpec {
        SockSpec {
            family,
            sock_type: SOCK_STREAM,
            protocol: PROTOCOL_TCP,
            state,
            local,
            remote,
            ..SockSpec::default()
        }
    }

    /// Reads an option into all of `out`: mark, priority and device of the socket, or one of its further ones.
    ///
    /// # Errors
    /// EINVAL: there is no such option, or a number does not take four bytes.
    pub(crate) fn read_option(&self, level: i32, name: i32, out: &mut [u8]) -> Result<(), Errno> {
        const SOL_SOCKET: i32 = 1;
        const SO_PRIORITY: i32 = 12;
        const SO_MARK: i32 = 36;
        const SO_BINDTOIFINDEX: i32 = 62;
        let number = match (level, name) {
            (SOL_SOCKET, SO_PRIORITY) => self.priority as i32,
            (SOL_SOCKET, SO_MARK) => self.mark as i32,
            (SOL_SOCKET, SO_BINDTOIFINDEX) => self.bound_ifindex as i32,
            _ => {
                let mut options = self.options.iter();
                let option = options.find(|option| (option.level, option.name) == (level, name));
                match &option.ok_or(Errno::EINVAL)?.value {
                    SockOptionValue::Int(number) => *number,
                    SockOptionValue::Text(text) => {
                        let len = text.len().min(out.len());
                        out[..len].copy_from_slice(&text.as_bytes()[..len]);
                        out[len..].fill(0);
                        return Ok(());
                    }
                }
            }
        };
        if out.len() != 4 {
            return Err(Errno::EINVAL);
        }
        out.copy_from_slice(&number.to_ne_bytes());
        Ok(())
    }

    /// A UDP socket over IPv4 or IPv6.
    pub fn udp(family: u16, local: Endpoint, remote: Endpoint) -> SockSpec {
        SockSpec {
            family,
            sock_type: SOCK_DGRAM,
            protocol: PROTOCOL_UDP,
            state: state::CLOSE,
            local,
            remote,
            ..SockSpec::default()
        }
    }
}

/// A socket.
#[repr(C)]
pub struct Sock {
    object: Object<BYTES>,
    spec: SockSpec,
    /// Whose local storage its is: no other socket of the process ever has the number.
    owner: u64,
}

impl std::fmt::Debug for Sock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Sock").field(&self.spec).finish()
    }
}

impl Sock {
    /// A socket.
    pub fn new(spec: SockSpec) -> Arc<Sock> {
        static NEXT_OWNER: AtomicU64 = AtomicU64::new(1);
        const NO_QUEUE: u16 = u16::MAX;
        let mut object = Object::zeroed();
        let mut put = |path: &str, bytes: &[u8]| {
            if let Some(field) = layout::field(None, "sock", path) {
                object.set(field.offset as usize, bytes);
            }
        };
        put("__sk_common.skc_family", &spec.family.to_ne_bytes());
        put("__sk_common.skc_state", &[spec.state]);
        put(
            "__sk_common.skc_bound_dev_if",
            &spec.bound_ifindex.to_ne_bytes(),
        );
        put("__sk_common.skc_cookie", &spec.cookie.to_ne_bytes());
        put("__sk_common.skc_num", &spec.local.1.to_ne_bytes());
        put("__sk_common.skc_dport", &spec.remote.1.to_be_bytes());
        if spec.family == family::INET6 {
            put("__sk_common.skc_v6_rcv_saddr", &spec.local.0);
            put("__sk_common.skc_v6_daddr", &spec.remote.0);
        } else {
            put("__sk_common.skc_rcv_saddr", &spec.local.0[..4]);
            put("__sk_common.skc_daddr", &spec.remote.0[..4]);
        }
        put("__sk_common.skc_rx_queue_mapping", &NO_QUEUE.to_ne_bytes());
        put("sk_type", &spec.sock_type.to_ne_bytes());
        put("sk_protocol", &spec.protocol.to_ne_bytes());
        put("sk_mark", &spec.mark.to_ne_bytes());
        put("sk_priority", &spec.priority.to_ne_bytes());
        Arc::new(Sock {
            object,
            spec,
            owner: NEXT_OWNER.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// What it is.
    pub fn spec(&self) -> &SockSpec {
        &self.spec
    }

    /// The pointer programs see.
    pub fn program_ptr(&self) -> u64 {
        debug_assert!(!self.object.bytes().is_empty());
        std::ptr::from_ref(self).expose_provenance() as u64
    }

    /// Another reference to it.
    pub(super) fn to_arc(&self) -> Arc<Sock> {
        let sock = std::ptr::with_exposed_provenance::<Sock>(self.program_ptr() as usize);
        // SAFETY: 1. sockets are made in an `Arc`, here only, so the address is one's; 2. the borrow holds that one while this counts up.
        unsafe {
            Arc::increment_strong_count(sock);
            Arc::from_raw(sock)
        }
    }

    pub(crate) fn storage_owner(&self) -> u64 {
        self.owner
    }

    /// Neither a request nor a remembered connection.
    pub(crate) fn is_full(&self) -> bool {
        !matches!(self.spec.state, state::TIME_WAIT | state::NEW_SYN_RECV)
    }

    pub(super) fn is_full_tcp(&self) -> bool {
        self.is_full() && self.spec.protocol == PROTOCOL_TCP && self.spec.sock_type == SOCK_STREAM
    }

    pub(super) fn is_full_udp(&self) -> bool {
        self.is_full() && self.spec.protocol == PROTOCOL_UDP && self.spec.sock_type == SOCK_DGRAM
    }
}

impl Drop for Sock {
    fn drop(&mut self) {
        forget_owner(StorageKind::Socket, self.owner);
    }
}

/// What a socket look-up asks: a packet's way, seen from the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockQuery {
    /// See [`family`].
    pub family: u16,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u16,
    /// Where the packet comes from.
    pub source: Endpoint,
    /// Where it goes to.
    pub destination: Endpoint,
}

impl SockQuery {
    /// How well a socket fits: connected sockets before those that wait, bound addresses before any; `None` if it does not.
    pub fn rank(&self, spec: &SockSpec) -> Option<u32> {
        const ANY: [u8; 16] = [0; 16];
        let is_same = (spec.family, spec.protocol) == (self.family, self.protocol);
        if !is_same || spec.local.1 != self.destination.1 {
            return None;
        }
        if spec.local.0 != self.destination.0 && spec.local.0 != ANY {
            return None;
        }
        let is_connected = spec.remote != (ANY, 0);
        if is_connected && spec.remote != self.source {
            return None;
        }
        Some(2 * u32::from(is_connected) + u32::from(spec.local.0 != ANY))
    }
}

/// Hands a socket to a program, which gives it back by [`give_back`].
pub(super) fn lend(sock: Arc<Sock>) -> u64 {
    let address = sock.program_ptr();
    // The reference is the program's now.
    let _ = Arc::into_raw(sock);
    address
}

/// Takes back what [`lend`] handed out.
///
/// # Safety
/// The address came from [`lend`], and this is the one time that it comes back.
pub(super) unsafe fn give_back(address: u64) {
    let sock = std::ptr::with_exposed_provenance::<Sock>(address as usize);
    // SAFETY: 1. the caller's promise: the reference that `lend` left.
    let sock = unsafe { Arc::from_raw(sock) };
    // Another program may have read the pointer from a packet.
    rcu::drop_rcu(sock);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> [u8; 16] {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[10, 0, 0, last]);
        address
    }

    #[test]
    fn the_object_holds_what_the_layout_says() {
        let mut spec = SockSpec::tcp(family::INET, state::LISTEN, (v4(1), 80), ([0; 16], 0));
        spec.mark = 7;
        let sock = Sock::new(spec);
        let at = |path| layout::field(None, "sock", path).unwrap().offset as usize;
        assert_eq!(sock.object.u16(at("__sk_common.skc_family")), 2);
        assert_eq!(sock.object.u16(at("__sk_common.skc_num")), 80);
        assert_eq!(sock.object.u8(at("__sk_common.skc_state")), 10);
        assert_eq!(sock.object.u32(at("sk_mark")), 7);
        assert_eq!(sock.object.u16(at("sk_protocol")), 6);
        for longest in [
            "tcp6_sock",
            "tcp_sock",
            "udp6_sock",
            "unix_sock",
            "tcp_request_sock",
        ] {
            let bytes = layout::struct_size(None, longest).unwrap() as usize;
            assert!(bytes <= BYTES, "{longest}");
        }
    }

    #[test]
    fn connections_come_before_listeners_and_bound_before_any() {
        let query = SockQuery {
            family: family::INET,
            protocol: PROTOCOL_TCP,
            source: (v4(9), 4000),
            destination: (v4(1), 80),
        };
        let any = ([0; 16], 0);
        let rank = |local: Endpoint, remote| {
            query.rank(&SockSpec::tcp(family::INET, state::LISTEN, local, remote))
        };
        assert_eq!(rank((v4(1), 80), (v4(9), 4000)), Some(3));
        assert_eq!(rank((v4(1), 80), any), Some(1));
        assert_eq!(rank(([0; 16], 80), any), Some(0));
        assert_eq!(rank((v4(1), 81), any), None);
        assert_eq!(rank((v4(2), 80), any), None);
        assert_eq!(rank((v4(1), 80), (v4(9), 4001)), None);
        assert_eq!(
            query.rank(&SockSpec::udp(family::INET, (v4(1), 80), any)),
            None
        );
    }
}
