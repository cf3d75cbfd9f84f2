//! Programs on functions of the host: what they see and decide, what is refused, what happens where BTF and code differ.

use std::sync::Arc;

use crate::common::{Watcher, function, load, try_load};
use ring3_btf::{Btf, Builder, IntEncoding, Kind, TypeId};
use ring3_objects::{Error, LinkDetail, LinkObject, System};
use ring3_runtime::ProgObject;
use ring3_tracing::Tracing;
use ring3_trampoline::{Certainty, HostFunction, Site, traceable};
use ring3_uapi::{AttachType, Errno, LinkType};

/// What `weigh` gets.
#[repr(C)]
pub(crate) struct Request {
    id: u32,
    bytes: u32,
}

traceable! {
    fn add(a: u64, b: u32) -> u64 {
        a + u64::from(b)
    }
    fn weigh(request: *const Request, factor: u32) -> u64 {
        // SAFETY: tests pass requests that live.
        let request = unsafe { &*request };
        u64::from(request.bytes) * u64::from(factor)
    }
    fn decide(a: u64) -> u64 {
        a * 2
    }
    fn busy(a: u64) -> u64 {
        a
    }
    fn unclear(a: u64, b: u64, c: u64) -> u64 {
        a * 100 + b * 10 + c
    }
    fn mistaken(a: u64, b: u64) -> u64 {
        a * 10 + b
    }
    fn unknown(a: u64) -> u64 {
        a
    }
}

const FENTRY: AttachType = AttachType::TraceFentry;
const FEXIT: AttachType = AttachType::TraceFexit;

/// Counts in word 0, keeps so many words of the context behind it.
fn keep(words: usize) -> String {
    let mut text = "r2 = *(u64 *)(r6 + 0)\nr2 += 1\n*(u64 *)(r6 + 0) = r2\n".to_owned();
    for word in 0..words {
        let (from, to) = (8 * word, 8 * word + 8);
        text += &format!("r2 = *(u64 *)(r1 + {from})\n*(u64 *)(r6 + {to}) = r2\n");
    }
    text + "r0 = 0\nexit\n"
}

fn errno(result: Result<Arc<LinkObject>, Error>) -> Errno {
    result.unwrap_err().errno
}

fn world() -> (Arc<System>, Tracing) {
    let system = System::new();
    let tracing = Tracing::new(&system);
    (system, tracing)
}

#[test]
fn arguments_results_and_cookies_are_seen() {
    let (system, tracing) = world();
    let add = function(
        add as *const (),
        "u64 add(u64 a, u32 b)",
        Certainty::Certain,
    );
    tracing.offer([add]).unwrap();
    let before = load(&system, FENTRY, "add", &keep(2));
    let after = load(&system, FEXIT, "add", &keep(3));
    // bpf_get_attach_cookie, bpf_get_func_arg_cnt.
    let cookie = load(
        &system,
        FENTRY,
        "add",
        "r7 = r1\ncall bpf_get_attach_cookie#174\n*(u64 *)(r6 + 0) = r0\nr1 = r7\ncall bpf_get_func_arg_cnt#185\n*(u64 *)(r6 + 8) = r0\nr0 = 0\nexit",
    );
    assert_eq!(self::add(20, 22), 42);
    let links = [
        tracing.link(&before.prog, 0).unwrap(),
        tracing.link(&after.prog, 0).unwrap(),
        tracing.link(&cookie.prog, 0xc0de).unwrap(),
    ];
    assert_eq!(self::add(20, 22), 42);
    assert_eq!(before.saw()[..4], [1, 20, 22, 0]);
    assert_eq!(after.saw()[..4], [1, 20, 22, 42]);
    assert_eq!(cookie.saw()[..2], [0xc0de, 2]);
    let info = links[2].info();
    assert_eq!(
        (info.link_type, info.prog_id),
        (LinkType::Tracing, cookie.prog.id())
    );
    let function = system
        .kernel_btf()
        .unwrap()
        .find_by_name_kind("add", Kind::Func);
    let detail = LinkDetail::Tracing {
        attach_type: FENTRY.raw(),
        target_obj_id: 0,
        target_btf_id: function.unwrap().0,
        cookie: 0xc0de,
    };
    assert_eq!(info.detail, detail);
    drop(links);
    assert_eq!(self::add(1, 1), 2);
    assert_eq!((before.saw()[0], after.saw()[0]), (1, 1));
}

#[test]
fn pointers_of_the_host_are_followed() {
    let (system, tracing) = world();
    let mut builder = Builder::extend(&system.kernel_btf().unwrap());
    let int = builder.add_int("unsigned int", 4, IntEncoding::NONE);
    builder.add_struct("Request", 8, &[("id", int, 0), ("bytes", int, 32)]);
    system.set_kernel_btf(Btf::parse(&builder.finish()).unwrap());
    let prototype = "u64 weigh(struct Request *request, u32 factor)";
    let weigh = function(weigh as *const (), prototype, Certainty::Certain);
    tracing.offer([weigh]).unwrap();
    let typed = load(
        &system,
        FENTRY,
        "weigh",
        "r2 = *(u64 *)(r1 + 0)\nr3 = *(u32 *)(r2 + 4)\n*(u64 *)(r6 + 0) = r3\nr0 = 0\nexit",
    );
    // bpf_probe_read_kernel of the id, from the same pointer.
    let probed = load(
        &system,
        FEXIT,
        "weigh",
        "r3 = *(u64 *)(r1 + 0)\nr1 = r10\nr1 += -8\nr2 = 4\ncall bpf_probe_read_kernel#113\nr2 = *(u32 *)(r10 - 8)\n\
         *(u64 *)(r6 + 0) = r2\n*(u64 *)(r6 + 8) = r0\nr0 = 0\nexit",
    );
    let _links = [tracing.link(&typed.prog, 0), tracing.link(&probed.prog, 0)].map(Result::unwrap);
    let request = Request { id: 7, bytes: 64 };
    assert_eq!(self::weigh(&request, 3), 192);
    assert_eq!(
        (typed.saw()[0], probed.saw()[0], probed.saw()[1]),
        (64, 7, 0)
    );
}

#[test]
fn a_modifiable_function_is_skipped() {
    let (system, tracing) = world();
    let plain = function(busy as *const (), "u64 busy(u64 a)", Certainty::Certain);
    let open = function(decide as *const (), "u64 decide(u64 a)", Certainty::Certain);
    tracing.offer([plain, open.modifiable()]).unwrap();
    let text = "r0 = *(u64 *)(r1 + 0)\nif r0 == 5 goto +1\nr0 = 0\nexit";
    let refused = try_load(&system, AttachType::ModifyReturn, "busy", text);
    let message = refused.err().unwrap().error.message;
    assert!(message.contains("busy() is not modifiable"), "{message}");
    let decides = load(&system, AttachType::ModifyReturn, "decide", text);
    let after = load(&system, FEXIT, "decide", &keep(2));
    let _links = [tracing.link(&decides.prog, 0), tracing.link(&after.prog, 0)].map(Result::unwrap);
    assert_eq!([4, 5, 6].map(|a| self::decide(a)), [8, 5, 12]);
    assert_eq!(after.saw()[..3], [3, 6, 12]);
}

#[test]
fn links_of_host_functions_come_and_go() {
    let (system, tracing) = world();
    let busy = function(busy as *const (), "u64 busy(u64 a)", Certainty::Certain);
    tracing.offer([busy]).unwrap();
    let again = function(
        self::busy as *const (),
        "u64 busy(u64 a)",
        Certainty::Certain,
    );
    assert_eq!(tracing.offer([again]).unwrap_err().errno, Errno::EEXIST);
    let watcher = load(&system, FENTRY, "busy", &keep(1));
    let link = tracing.link(&watcher.prog, 0).unwrap();
    assert_eq!(errno(tracing.link(&watcher.prog, 0)), Errno::EBUSY);
    drop(link);
    // A function of the host may be left and come back to.
    let link = tracing.link(&watcher.prog, 0).unwrap();
    assert_eq!(self::busy(3), 3);
    link.detach();
    assert_eq!(self::busy(4), 4);
    assert_eq!(watcher.saw()[..2], [1, 3]);
    // BTF alone is no function.
    let mut builder = Builder::extend(&system.kernel_btf().unwrap());
    let proto = builder.add_func_proto(TypeId::VOID, &[]);
    builder.add_func("elsewhere", proto, ring3_btf::FuncLinkage::Global);
    system.set_kernel_btf(Btf::parse(&builder.finish()).unwrap());
    let elsewhere = load(&system, FENTRY, "elsewhere", &keep(0));
    let error = tracing.link(&elsewhere.prog, 0).unwrap_err();
    assert_eq!(error.errno, Errno::ENOENT);
    assert!(
        error.message.contains("does not offer 'elsewhere'"),
        "{error}"
    );
}

/// A program that follows its first argument, and one that only keeps five words.
fn try_both(system: &Arc<System>, name: &str) -> (Errno, Watcher) {
    let follows = "r2 = *(u64 *)(r1 + 0)\nr3 = *(u32 *)(r2 + 112)\nr0 = 0\nexit";
    let refused = try_load(system, FENTRY, name, follows).err().unwrap();
    (refused.error.errno, load(system, FENTRY, name, &keep(5)))
}

#[test]
fn where_btf_and_code_may_differ_arguments_are_numbers() {
    let (system, tracing) = world();
    // The host is not certain of the first; of the second the BTF has another prototype.
    let mut builder = Builder::extend(&system.kernel_btf().unwrap());
    let btf = system.kernel_btf().unwrap();
    let skb = btf.find_by_name_kind("sk_buff", Kind::Struct).unwrap();
    let pointer = builder.add_ref(Kind::Ptr, "", skb);
    let proto = builder.add_func_proto(TypeId::VOID, &[("skb", pointer)]);
    builder.add_func("mistaken", proto, ring3_btf::FuncLinkage::Global);
    system.set_kernel_btf(Btf::parse(&builder.finish()).unwrap());
    let offered = [
        function(
            unclear as *const (),
            "u64 unclear(struct sk_buff *skb)",
            Certainty::Uncertain,
        ),
        function(
            mistaken as *const (),
            "u64 mistaken(u64 a, u64 b)",
            Certainty::Certain,
        ),
    ];
    tracing.offer(offered).unwrap();
    for name in ["unclear", "mistaken"] {
        let (errno, _) = try_both(&system, name);
        assert_eq!(errno, Errno::EACCES, "{name}");
        // bpf_skb_output wants an sk_buff.
        let output = "r7 = *(u64 *)(r1 + 0)\nr1 = r7\nr2 = map[0] ll\nr3 = 0\nr4 = r10\nr4 += -8\nr5 = 0\ncall bpf_skb_output#111\nr0 = 0\nexit";
        let refused = try_load(&system, FENTRY, name, output).err().unwrap();
        assert_eq!(refused.error.errno, Errno::EACCES, "{}", refused.log);
    }
    let (unclear, mistaken) = (
        try_both(&system, "unclear").1,
        try_both(&system, "mistaken").1,
    );
    let after = load(&system, FEXIT, "unclear", &keep(6));
    let watchers = [&unclear, &mistaken, &after];
    let _links = watchers.map(|watcher| tracing.link(&watcher.prog, 0).unwrap());
    assert_eq!(self::unclear(1, 2, 3), 123);
    assert_eq!(self::mistaken(4, 5), 45);
    assert_eq!(unclear.saw()[..4], [1, 1, 2, 3]);
    assert_eq!(mistaken.saw()[..3], [1, 4, 5]);
    assert_eq!(
        (after.saw()[..4].to_vec(), after.saw()[6]),
        (vec![1, 1, 2, 3], 123)
    );
}

#[test]
fn what_nobody_describes_is_not_offered() {
    let (system, tracing) = world();
    let types = system.kernel_btf().unwrap().type_count();
    // SAFETY: a function made by `traceable`; nothing is promised of its prototype.
    let bare = unsafe {
        HostFunction::described(
            Site::of_stub(unknown as *const ()).unwrap(),
            "unknown",
            Certainty::Uncertain,
        )
    };
    let good = function(
        add as *const (),
        "u64 add(u64 a, u32 b)",
        Certainty::Certain,
    );
    let error = tracing.offer([good, bare]).unwrap_err();
    assert_eq!(error.errno, Errno::ENOENT);
    assert_eq!(
        error.message,
        "function 'unknown': no prototype in the kernel BTF"
    );
    // All or none.
    assert_eq!(system.kernel_btf().unwrap().type_count(), types);
    let lacking = function(
        add as *const (),
        "u64 add(struct big a)",
        Certainty::Certain,
    );
    assert_eq!(tracing.offer([lacking]).unwrap_err().errno, Errno::ENOENT);
}
