//! The filter as a user of the server writes it: verified, compiled, run; and filters that are refused.

use std::sync::{Arc, atomic::Ordering};

use request_filter::{ACCOUNTS, Account, Filter, REPORTED, Request, request_filter};
use ring3::{
    EngineKind, LoadOptions, System,
    btf::{Builder, IntEncoding, Kind, host::HostTypes},
    host::HostProgram,
    objects::Object,
    uapi::Errno,
};
use ring3_example_request_filter as request_filter;

const OBJECT: &[u8] = include_bytes!("../bpf/filter.o");

#[test]
fn filters_read_the_servers_objects_and_call_its_helpers() {
    for engine in [EngineKind::Jit, EngineKind::Interp] {
        let filter = Filter::load(OBJECT, "by_quota", engine).unwrap();
        let account = Account {
            id: 7,
            quota: 100,
            requests: 999,
        };
        let busy = Account {
            id: 8,
            quota: 100,
            requests: 1000,
        };
        let ask = |method, bytes, account| {
            let mut request = Request {
                method,
                bytes,
                account,
            };
            filter.allows(&mut request).unwrap()
        };
        assert!(ask(1, 1 << 20, &busy));
        assert!(ask(2, 100, &account));
        assert!(!ask(2, 100, &busy));
        let before = REPORTED.load(Ordering::Relaxed);
        assert!(!ask(2, 101, &account));
        assert_eq!(REPORTED.load(Ordering::Relaxed) - before, 20);
    }
}

#[test]
fn kfuncs_hand_out_references_and_take_them_back() {
    let account = |id, requests| Account {
        id,
        quota: 100,
        requests,
    };
    let team = Arc::new(account(300, 5));
    ACCOUNTS.write().unwrap().insert(300, Arc::clone(&team));
    for engine in [EngineKind::Jit, EngineKind::Interp] {
        let filter = Filter::load(OBJECT, "by_team", engine).unwrap();
        for (id, bytes, allowed) in [(307, 100, true), (307, 101, false), (407, 1, false)] {
            let mut request = Request {
                method: 2,
                bytes,
                account: &account(id, 1000),
            };
            assert_eq!(
                filter.allows(&mut request).unwrap(),
                allowed,
                "{engine:?} {id}"
            );
        }
        assert_eq!(Arc::strong_count(&team), 2);
    }
}

#[test]
fn what_would_harm_the_server_is_refused() {
    for (name, words) in [
        ("raises_quota", "only read is supported"),
        (
            "reads_too_far",
            "access beyond struct Account at off 64 size 8",
        ),
        (
            "hands_over_a_number",
            "R1 type=scalar expected=ptr_, trusted_ptr_, rcu_ptr_",
        ),
        (
            "changes_the_request",
            "invalid bpf_context access off=4 size=4",
        ),
        (
            "keeps_the_account",
            "BPF_EXIT instruction in main prog would lead to reference leak",
        ),
        (
            "puts_what_it_was_lent",
            "release kernel function account_put expects refcounted PTR_TO_BTF_ID",
        ),
        ("reads_what_it_gave_back", "R6 invalid mem access 'scalar'"),
    ] {
        let error = Filter::load(OBJECT, name, EngineKind::Jit).err().unwrap();
        assert!(error.message.contains(words), "{name}: {error}");
    }
}

#[test]
fn types_may_come_from_the_servers_own_btf() {
    let described = HostTypes::new().with::<Request<'_>>().to_btf().unwrap();
    let system = System::for_host(request_filter().with_btf(described.clone())).unwrap();
    let types = system.kernel_btf().unwrap();
    let account = types.find_by_name_kind("Account", Kind::Struct).unwrap();
    assert_eq!(
        Some(account),
        described.find_by_name_kind("Account", Kind::Struct)
    );
    assert!(types.find_by_name_kind("account_put", Kind::Func).is_some());

    // BTF of another build: the account is smaller.
    let mut builder = Builder::new();
    let int = builder.add_int("unsigned int", 4, IntEncoding::NONE);
    builder.add_struct("Account", 8, &[("id", int, 0), ("quota", int, 32)]);
    let other = ring3::btf::Btf::parse(&builder.finish()).unwrap();
    let error = System::for_host(request_filter().with_btf(other))
        .err()
        .unwrap();
    assert_eq!(error.errno, Errno::EINVAL);
    assert!(error.message.contains("struct 'Account'"), "{error}");
}

ring3::host_context! {
    /// The context of another program type.
    struct Ping {
        count: u64,
    }
}

#[test]
fn a_program_runs_over_its_own_context_only() {
    let system = System::for_host(request_filter()).unwrap();
    let options = LoadOptions {
        programs: Some(vec!["by_quota".to_owned()]),
        ..LoadOptions::default()
    };
    let object = Object::parse(OBJECT, "filter").unwrap();
    let loaded = object.load_in(&system, &options).unwrap();
    let program = &**loaded.program("by_quota").unwrap();
    assert!(HostProgram::<Request<'_>>::new(program).is_ok());
    assert_eq!(HostProgram::<Ping>::new(program).err(), Some(Errno::EINVAL));

    let error = System::for_host(
        ring3::host::Host::<Ping>::new("ping")
            .helper("read", |request: &Request<'_>| request.bytes),
    );
    assert!(
        error
            .err()
            .unwrap()
            .message
            .contains("takes context 'Request', not 'Ping'")
    );
}

#[test]
fn programs_of_the_host_need_the_host() {
    let options = LoadOptions::default();
    let error = Object::parse(OBJECT, "filter")
        .unwrap()
        .load_in(&ring3::system(), &options);
    assert_eq!(error.err().unwrap().error.errno, Errno::EINVAL);
}
