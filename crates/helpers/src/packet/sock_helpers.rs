//! Helpers over modelled sockets: look-ups, casts, what a socket's cgroup is. Key type: [`Sock`].
//!
//! A host without a [`super::PacketWorld`] has no sockets to look up; the socket of a packet is there all the same.

use ring3_spec::kinds::{
    Btf, BtfSock, OrNull, Released, SockCommonPtr, SockCommonRet, Socket, SocketPtr, TcpSocket,
    Value,
};
use ring3_uapi::Errno;

use super::sock::{
    Endpoint, PROTOCOL_TCP, PROTOCOL_UDP, Sock, SockQuery, family, give_back, lend, state,
};
use super::{Skb, handshake, world};
use crate::bind::{AnyCtx, FromValue, IntoValue, bytes, implement};

impl FromValue<BtfSock> for Option<&Sock> {
    unsafe fn from_value(value: Value<BtfSock>) -> Self {
        // SAFETY: 1. sockets that programs get are `Sock`s, and pointers of such objects to others are null; 2. hooks and references keep them
        // for the run.
        unsafe { std::ptr::with_exposed_provenance::<Sock>(value.raw as usize).as_ref() }
    }
}

impl FromValue<OrNull<BtfSock>> for Option<&Sock> {
    unsafe fn from_value(value: Value<OrNull<BtfSock>>) -> Self {
        // SAFETY: 1. as above.
        unsafe { std::ptr::with_exposed_provenance::<Sock>(value.raw as usize).as_ref() }
    }
}

impl FromValue<SockCommonPtr> for Option<&Sock> {
    unsafe fn from_value(value: Value<SockCommonPtr>) -> Self {
        // SAFETY: 1. as above.
        unsafe { std::ptr::with_exposed_provenance::<Sock>(value.raw as usize).as_ref() }
    }
}

impl FromValue<OrNull<SocketPtr>> for Option<&Sock> {
    unsafe fn from_value(value: Value<OrNull<SocketPtr>>) -> Self {
        // SAFETY: 1. as above, for the same kinds of pointer.
        unsafe { FromValue::from_value(Value::<BtfSock>::new(value.raw)) }
    }
}

impl FromValue<Released<BtfSock>> for u64 {
    unsafe fn from_value(value: Value<Released<BtfSock>>) -> Self {
        value.raw
    }
}

/// A socket or none, where the helper does not change what the program owns.
struct Cast(u64);

impl Cast {
    fn of(sock: Option<&Sock>, fits: impl FnOnce(&Sock) -> bool) -> Cast {
        Cast(sock.filter(|sock| fits(sock)).map_or(0, Sock::program_ptr))
    }
}

macro_rules! casts {
    ($($kind:ty),*) => {$(
        impl IntoValue<OrNull<$kind>> for Cast {
            fn into_value(self) -> Value<OrNull<$kind>> {
                Value::new(self.0)
            }
        }
    )*};
}
casts!(Socket, TcpSocket, SockCommonRet);

impl<S> IntoValue<OrNull<Btf<S>>> for Cast {
    fn into_value(self) -> Value<OrNull<Btf<S>>> {
        Value::new(self.0)
    }
}

/// Which sockets a look-up may give.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// `bpf_skc_lookup_tcp`: requests and remembered connections too.
    Any,
    Full,
}

/// `struct bpf_sock_tuple`: `None` if it is of neither family.
fn query(tuple: &[u8], protocol: u16) -> Option<SockQuery> {
    const V4_BYTES: usize = 12;
    const V6_BYTES: usize = 36;
    let (family, address_bytes) = match tuple.len() {
        V4_BYTES => (family::INET, 4),
        V6_BYTES => (family::INET6, 16),
        _ => return None,
    };
    let end = |index: usize| -> Endpoint {
        let mut address = [0; 16];
        let from = index * address_bytes;
        address[..address_bytes].copy_from_slice(&tuple[from..from + address_bytes]);
        let port = 2 * address_bytes + 2 * index;
        (address, u16::from_be_bytes([tuple[port], tuple[port + 1]]))
    };
    Some(SockQuery {
        family,
        protocol,
        source: end(0),
        destination: end(1),
    })
}

/// A look-up in the caller's network namespace, the only one there is; the socket is the program's until it is released.
fn lookup(tuple: &[u8], protocol: u16, netns: u64, flags: u64, wanted: Wanted) -> Cast {
    let is_current = (netns as i32) < 0;
    if flags != 0 || !is_current {
        return Cast(0);
    }
    let found = query(tuple, protocol).and_then(|query| world::current()?.find_socket(&query));
    let found = found.filter(|sock| wanted == Wanted::Any || sock.is_full());
    Cast(found.map_or(0, lend))
}

fn cgroup_at(sock: Option<&Sock>, level: impl FnOnce(usize) -> Option<usize>) -> u64 {
    let find = |sock: &Sock| {
        let cgroups = &sock.spec().cgroups;
        let deepest = cgroups.len().checked_sub(1)?;
        cgroups.get(level(deepest)?).copied()
    };
    sock.and_then(find).unwrap_or(0)
}

implement! { ROWS:
    SkLookupTcp(_ctx: AnyCtx, tuple: *const u8, tuple_size: u32, netns: u64, flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        lookup(unsafe { bytes(tuple, tuple_size) }, PROTOCOL_TCP, netns, flags, Wanted::Full)
    }
    SkLookupUdp(_ctx: AnyCtx, tuple: *const u8, tuple_size: u32, netns: u64, flags: u64) {
        // SAFETY: 1. as above.
        lookup(unsafe { bytes(tuple, tuple_size) }, PROTOCOL_UDP, netns, flags, Wanted::Full)
    }
    SkcLookupTcp(_ctx: AnyCtx, tuple: *const u8, tuple_size: u32, netns: u64, flags: u64) {
        // SAFETY: 1. as above.
        lookup(unsafe { bytes(tuple, tuple_size) }, PROTOCOL_TCP, netns, flags, Wanted::Any)
    }
    SkRelease(sk: u64) {
        // SAFETY: 1. OBJ_RELEASE: a reference that a look-up gave, and the program has given it back with this.
        unsafe { give_back(sk) };
        Ok::<(), Errno>(())
    }
    SkFullsock(sk: Option<&Sock>) { Cast::of(sk, Sock::is_full) }
    TcpSockOf(sk: Option<&Sock>) { Cast::of(sk, Sock::is_full_tcp) }
    GetListenerSock(sk: Option<&Sock>) { Cast::of(sk, |sock| sock.spec().state == state::LISTEN) }
    SkCgroupId(sk: Option<&Sock>) { cgroup_at(sk, Some) }
    SkAncestorCgroupId(sk: Option<&Sock>, level: i32) { cgroup_at(sk, |_| usize::try_from(level).ok()) }
    SkcToTcpSock(sk: Option<&Sock>) { Cast::of(sk, Sock::is_full_tcp) }
    SkcToTcp6Sock(sk: Option<&Sock>) {
        Cast::of(sk, |sock| sock.is_full_tcp() && sock.spec().family == family::INET6)
    }
    SkcToTcpTimewaitSock(sk: Option<&Sock>) { Cast::of(sk, |sock| sock.spec().state == state::TIME_WAIT) }
    SkcToTcpRequestSock(sk: Option<&Sock>) { Cast::of(sk, |sock| sock.spec().state == state::NEW_SYN_RECV) }
    SkcToUdp6Sock(sk: Option<&Sock>) {
        Cast::of(sk, |sock| sock.is_full_udp() && sock.spec().family == family::INET6)
    }
    SkcToUnixSock(sk: Option<&Sock>) { Cast::of(sk, |sock| sock.is_full() && sock.spec().family == family::UNIX) }
    TcpCheckSyncookie(sk: Option<&Sock>, iph: *const u8, iph_len: u32, th: *const u8, th_len: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size, twice.
        unsafe { handshake::check(sk, bytes(iph, iph_len), bytes(th, th_len)) }
    }
    TcpGenSyncookie(sk: Option<&Sock>, iph: *const u8, iph_len: u32, th: *const u8, th_len: u32) {
        // SAFETY: as above.
        unsafe { handshake::generate(sk, bytes(iph, iph_len), bytes(th, th_len)) }
    }
    SkAssign(skb: &mut Skb, sk: Option<&Sock>, flags: u64) { skb.assign_socket(sk, flags) }
    /// No modelled socket is a subflow of another.
    SkcToMptcpSock(_sk: Option<&Sock>) { Cast(0) }
}

implement! { TRACED_VARIANTS:
    GetSocketCookieTracing(sk: Option<&Sock>) { sk.map_or(0, |sock| sock.spec().cookie) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{NetDevice, PacketWorld, RouteAnswer, RouteQuery, SockSpec, WorldGuard};
    use super::*;
    use ring3_uapi::FuncId;

    struct Sockets(Vec<Arc<Sock>>);

    impl PacketWorld for Sockets {
        fn device(&self, _: u32) -> Option<Arc<NetDevice>> {
            None
        }
        fn peer(&self, _: u32) -> Option<u32> {
            None
        }
        fn route(&self, _: &RouteQuery) -> RouteAnswer {
            RouteAnswer::NoDevice
        }
        fn send_clone(&self, _: &[u8], _: u32, _: bool) -> Result<(), Errno> {
            Err(Errno::EINVAL)
        }
        fn find_socket(&self, query: &SockQuery) -> Option<Arc<Sock>> {
            let ranked = self
                .0
                .iter()
                .filter_map(|sock| Some((query.rank(sock.spec())?, sock)));
            ranked
                .max_by_key(|(rank, _)| *rank)
                .map(|(_, sock)| Arc::clone(sock))
        }
    }

    fn call(id: FuncId, sock: u64) -> u64 {
        let code = crate::find(id).unwrap();
        // SAFETY: 0 or a live socket.
        unsafe { code(sock, 0, 0, 0, 0) }
    }

    fn look_up(id: FuncId, tuple: &[u8], netns: u64, flags: u64) -> u64 {
        let code = crate::find(id).unwrap();
        let address = tuple.as_ptr().expose_provenance() as u64;
        // SAFETY: the tuple lives.
        unsafe { code(0, address, tuple.len() as u64, netns, flags) }
    }

    const CURRENT: u64 = u64::MAX;
    /// 10.0.0.9:4000 to 10.0.0.1:80
    const TUPLE: [u8; 12] = [10, 0, 0, 9, 10, 0, 0, 1, 0x0f, 0xa0, 0, 80];

    fn local(last: u8, port: u16) -> Endpoint {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[10, 0, 0, last]);
        (address, port)
    }

    #[test]
    fn looked_up_sockets_are_held_until_they_are_released() {
        let any = ([0; 16], 0);
        let listener = Sock::new(SockSpec::tcp(
            family::INET,
            state::LISTEN,
            local(1, 80),
            any,
        ));
        let waiting = SockSpec::tcp(family::INET, state::TIME_WAIT, local(1, 81), local(9, 4000));
        let waiting = Sock::new(waiting);
        let datagram = Sock::new(SockSpec::udp(family::INET, ([0; 16], 80), any));
        let all = [&listener, &waiting, &datagram].map(Arc::clone);
        assert_eq!(look_up(FuncId::SkLookupTcp, &TUPLE, CURRENT, 0), 0);
        let world = WorldGuard::enter(Arc::new(Sockets(all.to_vec())));
        let found = look_up(FuncId::SkLookupTcp, &TUPLE, CURRENT, 0);
        assert_eq!(found, listener.program_ptr());
        assert_eq!(Arc::strong_count(&listener), 4);
        assert_eq!(call(FuncId::SkRelease, found), 0);
        ring3_sync::rcu::barrier().unwrap();
        assert_eq!(Arc::strong_count(&listener), 3);

        let udp = look_up(FuncId::SkLookupUdp, &TUPLE, CURRENT, 0);
        assert_eq!(udp, datagram.program_ptr());
        call(FuncId::SkRelease, udp);
        let mut other = TUPLE;
        other[11] = 81;
        assert_eq!(look_up(FuncId::SkLookupTcp, &other, CURRENT, 0), 0);
        let remembered = look_up(FuncId::SkcLookupTcp, &other, CURRENT, 0);
        assert_eq!(remembered, waiting.program_ptr());
        call(FuncId::SkRelease, remembered);
        for (tuple, netns, flags) in [
            (&TUPLE[..], CURRENT, 1),
            (&TUPLE[..], 3, 0),
            (&TUPLE[..11], CURRENT, 0),
            (&[][..], CURRENT, 0),
            (&[0; 36][..], CURRENT, 0),
        ] {
            assert_eq!(look_up(FuncId::SkLookupTcp, tuple, netns, flags), 0);
        }
        drop(world);
    }

    #[test]
    fn a_packet_at_ingress_is_given_to_a_socket() {
        let mut skb = Skb::received(&[0; 64], &NetDevice::new(1, "lo", 1500)).unwrap();
        let datagram = |port, cookie| {
            let spec = SockSpec::udp(family::INET, local(1, port), local(0, 0));
            Sock::new(SockSpec { cookie, ..spec })
        };
        let (bound, unbound) = (datagram(80, 5), datagram(0, 6));
        let mut assign = |sock: u64, flags: u64, is_at_ingress: bool| {
            skb.set_at_ingress(is_at_ingress);
            let ctx = std::ptr::from_mut(&mut *skb).expose_provenance() as u64;
            // SAFETY: the packet and the sockets live.
            let result = unsafe { crate::find(FuncId::SkAssign).unwrap()(ctx, sock, flags, 0, 0) };
            (result as i64, skb.socket_cookie())
        };
        let [invalid, unsupported] = [Errno::EINVAL, Errno::EOPNOTSUPP].map(Errno::negated);
        assert_eq!(assign(0, 0, true), (invalid, 0));
        assert_eq!(assign(bound.program_ptr(), 1, true), (invalid, 0));
        assert_eq!(assign(bound.program_ptr(), 0, false), (unsupported, 0));
        assert_eq!(assign(unbound.program_ptr(), 0, true), (unsupported, 0));
        assert_eq!(assign(bound.program_ptr(), 0, true), (0, 5));
        // To the one that has it already, too.
        assert_eq!(assign(bound.program_ptr(), 0, true), (0, 5));
        assert!(Arc::strong_count(&bound) > 1);
        drop(skb);
        ring3_sync::rcu::barrier().unwrap();
        assert_eq!(Arc::strong_count(&bound), 1);
    }

    #[test]
    fn casts_give_the_socket_where_its_kind_fits() {
        use FuncId::*;
        const CASTS: [FuncId; 10] = [
            SkFullsock,
            TcpSock,
            GetListenerSock,
            SkcToTcpSock,
            SkcToTcp6Sock,
            SkcToTcpTimewaitSock,
            SkcToTcpRequestSock,
            SkcToUdp6Sock,
            SkcToUnixSock,
            SkcToMptcpSock,
        ];
        let any = ([0; 16], 0);
        let tcp = |family, state| Sock::new(SockSpec::tcp(family, state, any, any));
        let unix = SockSpec {
            family: family::UNIX,
            state: state::ESTABLISHED,
            ..SockSpec::default()
        };
        for (sock, fits) in [
            (
                tcp(family::INET, state::ESTABLISHED),
                &[SkFullsock, TcpSock, SkcToTcpSock][..],
            ),
            (
                tcp(family::INET6, state::LISTEN),
                &[
                    SkFullsock,
                    TcpSock,
                    GetListenerSock,
                    SkcToTcpSock,
                    SkcToTcp6Sock,
                ],
            ),
            (tcp(family::INET, state::TIME_WAIT), &[SkcToTcpTimewaitSock]),
            (
                tcp(family::INET, state::NEW_SYN_RECV),
                &[SkcToTcpRequestSock],
            ),
            (
                Sock::new(SockSpec::udp(family::INET6, any, any)),
                &[SkFullsock, SkcToUdp6Sock],
            ),
            (Sock::new(unix), &[SkFullsock, SkcToUnixSock]),
        ] {
            for cast in CASTS {
                let expected = if fits.contains(&cast) {
                    sock.program_ptr()
                } else {
                    0
                };
                assert_eq!(
                    call(cast, sock.program_ptr()),
                    expected,
                    "{cast} of {sock:?}"
                );
                assert_eq!(call(cast, 0), 0);
            }
        }
    }

    #[test]
    fn a_socket_knows_its_cgroup_and_the_ancestors() {
        let spec = SockSpec {
            cgroups: vec![1, 20, 300],
            ..SockSpec::default()
        };
        let sock = Sock::new(spec);
        assert_eq!(call(FuncId::SkCgroupId, sock.program_ptr()), 300);
        assert_eq!(call(FuncId::SkCgroupId, 0), 0);
        let ancestor = crate::find(FuncId::SkAncestorCgroupId).unwrap();
        // SAFETY: the socket lives.
        let levels = [0, 1, 2, 3, u64::MAX]
            .map(|level| unsafe { ancestor(sock.program_ptr(), level, 0, 0, 0) });
        assert_eq!(levels, [1, 20, 300, 0, 0]);
    }
}
