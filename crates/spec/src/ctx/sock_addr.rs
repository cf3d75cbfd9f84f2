//! Addresses of a socket call: `bpf_sock_addr`.

use ring3_uapi::AttachType as A;

use super::rows::{at, field, load, sized, store};
use super::{
    ACCESS, CtxField,
    CtxReg::Sock,
    Narrow, Step,
    Who::{Ctx, Dst, Tmp, Val},
};

const SOCK_ADDR_USER_FAMILY: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    load(2, Dst, Dst, at("sockaddr_in6", "sin6_family", 0)),
];
const SOCK_ADDR_USER_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    load(4, Dst, Dst, at("sockaddr_in", "sin_addr.s_addr", 0)),
];
const SOCK_ADDR_USER_IP4_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    store(4, Tmp, at("sockaddr_in", "sin_addr.s_addr", 0), Val),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0)),
];
const SOCK_ADDR_USER_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    load(
        ACCESS,
        Dst,
        Dst,
        at("sockaddr_in6", "sin6_addr.in6_u.u6_addr32", 0).each(),
    ),
];
const SOCK_ADDR_USER_IP6_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    store(
        ACCESS,
        Tmp,
        at("sockaddr_in6", "sin6_addr.in6_u.u6_addr32", 0).each(),
        Val,
    ),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0)),
];
const SOCK_ADDR_USER_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    load(2, Dst, Dst, at("sockaddr_in6", "sin6_port", 0)),
];
const SOCK_ADDR_USER_PORT_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    store(2, Tmp, at("sockaddr_in6", "sin6_port", 0), Val),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0)),
];
const SOCK_ADDR_FAMILY: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_family", 0)),
];
const SOCK_ADDR_TYPE: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "sk_type", 0)),
];
const SOCK_ADDR_PROTOCOL: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "sk_protocol", 0)),
];
const SOCK_ADDR_MSG_SRC_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "t_ctx", 0)),
    load(4, Dst, Dst, at("in_addr", "s_addr", 0)),
];
const SOCK_ADDR_MSG_SRC_IP4_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "t_ctx", 0)),
    store(4, Tmp, at("in_addr", "s_addr", 0), Val),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0)),
];
const SOCK_ADDR_MSG_SRC_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "t_ctx", 0)),
    load(
        ACCESS,
        Dst,
        Dst,
        at("in6_addr", "in6_u.u6_addr32", 0).each(),
    ),
];
const SOCK_ADDR_MSG_SRC_IP6_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "t_ctx", 0)),
    store(
        ACCESS,
        Tmp,
        at("in6_addr", "in6_u.u6_addr32", 0).each(),
        Val,
    ),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0)),
];
const SOCK_ADDR_SK: &[Step] = &[load(8, Dst, Ctx, at("bpf_sock_addr_kern", "sk", 0))];

pub(super) const SOCK_ADDR: &[CtxField] = &[
    field("user_family", 0, 4, sized(4, 4)).loaded(SOCK_ADDR_USER_FAMILY),
    field("user_ip4", 4, 4, sized(1, 4))
        .stored(sized(4, 4), SOCK_ADDR_USER_IP4_STORE)
        .loaded(SOCK_ADDR_USER_IP4)
        .narrow(Narrow { unit: 4, target: 4 })
        .only(&[
            A::CgroupInet4Bind,
            A::CgroupInet4Connect,
            A::CgroupUdp4Sendmsg,
            A::CgroupUdp4Recvmsg,
            A::CgroupInet4Getpeername,
            A::CgroupInet4Getsockname,
        ]),
    field("user_ip6", 8, 16, sized(1, 8))
        .stored(sized(4, 8), SOCK_ADDR_USER_IP6_STORE)
        .loaded(SOCK_ADDR_USER_IP6)
        .narrow(Narrow { unit: 4, target: 4 })
        .only(&[
            A::CgroupInet6Bind,
            A::CgroupInet6Connect,
            A::CgroupUdp6Sendmsg,
            A::CgroupUdp6Recvmsg,
            A::CgroupInet6Getpeername,
            A::CgroupInet6Getsockname,
        ]),
    field("user_port", 24, 4, sized(1, 4))
        .stored(sized(4, 4), SOCK_ADDR_USER_PORT_STORE)
        .loaded(SOCK_ADDR_USER_PORT)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("family", 28, 4, sized(4, 4)).loaded(SOCK_ADDR_FAMILY),
    field("type", 32, 4, sized(4, 4)).loaded(SOCK_ADDR_TYPE),
    field("protocol", 36, 4, sized(4, 4)).loaded(SOCK_ADDR_PROTOCOL),
    field("msg_src_ip4", 40, 4, sized(1, 4))
        .stored(sized(4, 4), SOCK_ADDR_MSG_SRC_IP4_STORE)
        .loaded(SOCK_ADDR_MSG_SRC_IP4)
        .narrow(Narrow { unit: 4, target: 4 })
        .only(&[A::CgroupUdp4Sendmsg]),
    field("msg_src_ip6", 44, 16, sized(1, 8))
        .stored(sized(4, 8), SOCK_ADDR_MSG_SRC_IP6_STORE)
        .loaded(SOCK_ADDR_MSG_SRC_IP6)
        .narrow(Narrow { unit: 4, target: 4 })
        .only(&[A::CgroupUdp6Sendmsg]),
    field("sk", 64, 8, sized(8, 8))
        .yields(Sock)
        .loaded(SOCK_ADDR_SK),
];
