//! Raw tracepoints that a host declares.

use std::sync::Arc;

use crate::common::{Watcher, load, try_load};
use ring3_helpers::plain_context::TypedArgs;
use ring3_isa::{NoNames, parse_asm};
use ring3_maps::MapAttr;
use ring3_objects::{LinkDetail, MapObject, ProgAttr, Program, System};
use ring3_tracing::{TracepointSpec, Tracing};
use ring3_uapi::{AttachType, Errno, LinkType, MapType, ProgType};

/// A raw tracepoint program over a map of its own, or of another.
fn raw(system: &Arc<System>, map: Option<&Arc<MapObject>>, text: &str) -> Watcher {
    let map = map.cloned().unwrap_or_else(|| {
        let attr = MapAttr::new(MapType::Array, 4, 8 * crate::common::WORDS as u32, 1);
        MapObject::create(system, &attr, None, None).unwrap()
    });
    let text = format!("r6 = map[0]+0 ll\n{text}");
    let insns = parse_asm(&text, &NoNames).unwrap().insns;
    let mut attr = ProgAttr::new(ProgType::RawTracepoint, insns);
    attr.maps.insert(0, Arc::clone(&map));
    let prog = Program::load(system, attr).unwrap_or_else(|error| panic!("{error}"));
    Watcher { map, prog }
}

#[test]
fn programs_run_in_the_order_in_which_they_came() {
    let system = System::new();
    let tracing = Tracing::new(&system);
    let spec = TracepointSpec::new("request", 2);
    let tracepoint = tracing.declare_tracepoint(spec).unwrap();
    // Each: word = word * 10 + cookie; the second argument to the next word.
    let text = "r7 = *(u64 *)(r1 + 8)\ncall bpf_get_attach_cookie#174\nr2 = *(u64 *)(r6 + 0)\nr2 *= 10\nr2 += r0\n\
                *(u64 *)(r6 + 0) = r2\n*(u64 *)(r6 + 8) = r7\nr0 = 0\nexit";
    let first = raw(&system, None, text);
    let second = raw(&system, Some(&first.map), text);
    tracepoint.fire(&[1, 2]);
    assert!(!tracepoint.is_watched());
    let link = |watcher: &Watcher, cookie| {
        let name = Some("request");
        tracing
            .link_tracepoint(&watcher.prog, name, cookie)
            .unwrap()
    };
    let links = [link(&first, 1), link(&second, 2), link(&first, 3)];
    tracepoint.fire(&[1, 2, 99]);
    assert_eq!(first.saw()[..2], [123, 2]);
    let expected = LinkDetail::RawTracepoint {
        name: "request".to_owned(),
        cookie: 2,
    };
    assert_eq!(links[1].info().detail, expected);
    assert_eq!(links[1].info().link_type, LinkType::RawTracepoint);
    let [a, b, c] = links;
    drop(b);
    tracepoint.fire(&[]);
    assert_eq!(first.saw()[..2], [12313, 0]);
    drop((a, c));
    tracepoint.fire(&[1]);
    assert_eq!(first.saw()[0], 12313);
}

#[test]
fn typed_arguments_are_followed() {
    let system = System::new();
    let tracing = Tracing::new(&system);
    // SAFETY: it is fired with a packet's object.
    let promise = unsafe { TypedArgs::promise() };
    let spec = TracepointSpec::typed("void packet(struct sk_buff *skb, u32 reason)", promise);
    let tracepoint = tracing.declare_tracepoint(spec.unwrap()).unwrap();
    let text = "r2 = *(u64 *)(r1 + 0)\nr4 = *(u64 *)(r1 + 8)\nr3 = *(u32 *)(r2 + 112)\n\
                *(u64 *)(r6 + 0) = r3\n*(u64 *)(r6 + 8) = r4\nr0 = 0\nexit";
    let watcher = load(&system, AttachType::TraceRawTp, "btf_trace_packet", text);
    let _link = tracing.link_tracepoint(&watcher.prog, None, 0).unwrap();
    let device = ring3_helpers::packet::NetDevice::new(1, "lo", 65535);
    let mut skb = ring3_helpers::packet::Skb::received(&[1; 77], &device).unwrap();
    tracepoint.fire(&[skb.program_ptr(), 5]);
    assert_eq!(watcher.saw()[..2], [77, 5]);
    // There is no third argument.
    let third = "r2 = *(u64 *)(r1 + 16)\nr0 = 0\nexit";
    assert!(try_load(&system, AttachType::TraceRawTp, "btf_trace_packet", third).is_err());
}

#[test]
fn what_does_not_fit_is_refused() {
    let system = System::new();
    let tracing = Tracing::new(&system);
    let errno = |spec| tracing.declare_tracepoint(spec).unwrap_err().errno;
    assert_eq!(errno(TracepointSpec::new("many", 13)), Errno::EINVAL);
    tracing
        .declare_tracepoint(TracepointSpec::new("one", 1))
        .unwrap();
    assert_eq!(errno(TracepointSpec::new("one", 1)), Errno::EEXIST);
    let reads_second = raw(&system, None, "r2 = *(u64 *)(r1 + 8)\nr0 = 0\nexit");
    let link = |name| {
        tracing
            .link_tracepoint(&reads_second.prog, name, 0)
            .unwrap_err()
            .errno
    };
    assert_eq!(link(Some("one")), Errno::EINVAL);
    assert_eq!(link(Some("two")), Errno::ENOENT);
    assert_eq!(link(None), Errno::EINVAL);
    let insns = parse_asm("r0 = 0\nexit", &NoNames).unwrap().insns;
    let writable = ProgAttr::new(ProgType::RawTracepointWritable, insns);
    let writable = Program::load(&system, writable).unwrap_or_else(|error| panic!("{error}"));
    let refused = tracing.link_tracepoint(&writable, Some("one"), 0);
    assert_eq!(refused.unwrap_err().errno, Errno::ENOTSUPP);
}
