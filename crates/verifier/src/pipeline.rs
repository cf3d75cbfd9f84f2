//! The passes in order. What each finds is a value; exploration gets them together as [`Facts`].

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;

use ring3_btf::Btf;
use ring3_isa::{Insn, RawInsn, decode};
use ring3_spec::{Caller, LoadRequest, MapInfo, Registry, VerifiedProgram, VerifierStats};
use ring3_uapi::Errno;
use ring3_uapi::flags::prog_load;
use ring3_uapi::limits::{PROG_INSNS_MAX, PROG_INSNS_MAX_UNPRIVILEGED};

use crate::attach::{Effects, check_attach, resolved_prog_type};
use crate::aux::AuxTable;
use crate::backtrack::quick::QuickStep;
use crate::call_traits::{CallTraits, KernelCalls};
use crate::cfg::{CfgInput, CfgNote, check_cfg};
use crate::check::call::func_args::{FuncArg, prepare_func_args, set_global_args};
use crate::check::encoding::without_ignored_fields;
use crate::check::regs::uses_of;
use crate::check_btf::{
    FuncInfo, WantLines, apply_core_relos, check_func_info, check_func_info_early, check_line_info,
};
use crate::diagnostics::{self, Diagnosis};
use crate::env::{
    Env, Facts, LdImm64, Linkage, Modes, Permits, Scratch, Slot, Subprog, SubprogAux,
};
use crate::error::{Check, RejectKind, VerifierError, Violation, reject};
use crate::explore::{explore, log_violation, write_violation};
use crate::fastcall::{mark_fastcall_patterns, remove_fastcall_spills_fills};
use crate::fixups::{FixupInput, Outcome, fixup};
use crate::kfunc_calls::{KfuncCalls, module_btfs};
use crate::liveness::regs::{compute_live_regs, write_live_regs};
use crate::liveness::stack::StackLiveness;
use crate::log::insn::{log_insn, log_source_line};
use crate::log::{Log, vlog};
use crate::order::{compute_postorder, compute_scc};
use crate::recording::Recording;
use crate::resolve::{ResolveInput, process_fd_array, resolve_ld_imm64};
use crate::stack_depth::{StackInput, SubprogUse, check_max_stack_depth, private_stack_of};
use crate::state::{
    Extra, FrameKind, FuncState, MAIN_CALLSITE, MapIdx, RegState, RegType, SharedReg, VerifierState,
};
use crate::states::StateTable;
use crate::stop_points::StopPoints;
use crate::subprogs::{SubprogInput, check_subprogs, find_subprogs, name_subprogs};

/// Decides whether a program is safe, as Linux 6.18 does.
///
/// # Errors
/// The rule that the program breaks; [`RejectKind::Unjudged`] where this verifier cannot tell.
pub fn verify(
    req: &LoadRequest,
    registry: &Registry,
    log: &mut Log,
) -> Result<VerifiedProgram, VerifierError> {
    run_with(req, registry, log, &mut Extras::default())
}

/// As [`verify`], with the reasons for people beside the error.
///
/// # Errors
/// As [`verify`].
pub fn verify_explained(
    req: &LoadRequest,
    registry: &Registry,
    log: &mut Log,
) -> Result<VerifiedProgram, (VerifierError, Box<Diagnosis>)> {
    let mut extras = Extras {
        wants_diagnosis: true,
        ..Extras::default()
    };
    run_with(req, registry, log, &mut extras).map_err(|error| {
        let early = || diagnostics::of_early(error.errno, &error.message, error.kind);
        let diagnosis = extras.diagnosis.unwrap_or_else(early);
        (error, Box::new(diagnosis))
    })
}

/// What is kept beside the verdict.
#[derive(Default)]
struct Extras {
    recording: Option<Recording>,
    wants_diagnosis: bool,
    diagnosis: Option<Diagnosis>,
}

/// As [`verify`], keeping what was known before each instruction; see [`crate::recording`] for how the walk differs.
///
/// # Errors
/// As [`verify`]; E2BIG without a message if more than `states_max` states would be kept.
pub fn verify_recorded(
    req: &LoadRequest,
    registry: &Registry,
    log: &mut Log,
    states_max: u32,
) -> Result<(VerifiedProgram, Recording), VerifierError> {
    let mut extras = Extras {
        recording: Some(Recording::new(states_max)),
        ..Extras::default()
    };
    let program = run_with(req, registry, log, &mut extras)?;
    let recording = extras.recording;
    Ok((program, recording.unwrap_or_else(|| Recording::new(0))))
}

fn run_with(
    req: &LoadRequest,
    registry: &Registry,
    log: &mut Log,
    extras: &mut Extras,
) -> Result<VerifiedProgram, VerifierError> {
    let mut at = None;
    match run(req, registry, log, &mut at, extras) {
        Ok(program) => Ok(program),
        Err(violation) => Err(VerifierError {
            errno: violation.errno,
            message: violation.text,
            insn_idx: at,
            kind: violation.kind,
        }),
    }
}

fn permits_of(req: &LoadRequest) -> Permits {
    let perfmon = req.privilege.may_perfmon();
    Permits {
        bpf_capable: req.privilege.may_bpf(),
        allow_ptr_leaks: perfmon,
        allow_uninit_stack: perfmon,
        bypass_spec_v1: perfmon,
        bypass_spec_v4: perfmon,
    }
}

fn modes_of(req: &LoadRequest, permits: Permits) -> Modes {
    let has = |flag: u32| req.flags & flag != 0;
    Modes {
        strict_alignment: has(prog_load::STRICT_ALIGNMENT) && !has(prog_load::ANY_ALIGNMENT),
        test_state_freq: has(prog_load::TEST_STATE_FREQ) && permits.bpf_capable,
        test_reg_invariants: has(prog_load::TEST_REG_INVARIANTS) && permits.bpf_capable,
        sleepable: has(prog_load::SLEEPABLE),
    }
}

/// The size that BPF_PROG_LOAD accepts, before anything is said.
fn check_size(req: &LoadRequest, permits: Permits) -> Check {
    let most = if permits.bpf_capable {
        PROG_INSNS_MAX
    } else {
        PROG_INSNS_MAX_UNPRIVILEGED
    };
    if req.insns.is_empty() || req.insns.len() > most {
        return Err(Violation::silent(Errno::E2BIG));
    }
    Ok(())
}

fn run(
    req: &LoadRequest,
    registry: &Registry,
    log: &mut Log,
    at: &mut Option<u32>,
    extras: &mut Extras,
) -> Check<VerifiedProgram> {
    let permits = permits_of(req);
    check_size(req, permits)?;
    check_load_permitted(req, registry, permits)?;
    let mut subprog_count = 0;
    let want_lines = if log.is_on() || extras.wants_diagnosis {
        WantLines::Yes
    } else {
        WantLines::No
    };
    let prepared = prepare(req, registry, permits, log, want_lines, &mut subprog_count);
    let mut facts = match prepared {
        Ok(facts) => facts,
        Err(violation) => {
            write_violation(log, &violation);
            log_stats(
                log,
                &alloc::vec![0; subprog_count],
                &VerifierStats::default(),
            );
            return Err(violation);
        }
    };
    let mut env = new_env(req, registry, &facts, log, permits);
    env.recording = extras.recording.take().map(|mut recording| {
        recording.begin(&facts);
        recording
    });
    let explored = explore_all(&mut env);
    if let Err(violation) = &explored {
        *at = Some(env.insn_idx);
        if extras.wants_diagnosis {
            extras.diagnosis = Some(diagnostics::of_path(&env, violation));
        }
    }
    extras.recording = env.recording.take();
    let mut walked = Walked::of(env);
    let result = explored.and_then(|()| {
        facts.end_exploration();
        after_acceptance(req, registry, &facts, permits, &mut walked)
    });
    if let Err(violation) = &result {
        write_violation(log, violation);
    }
    // Rewrites remove functions and use stack of their own.
    let depths: Vec<u32> = match &result {
        Ok(program) => program
            .subprogs
            .iter()
            .map(|subprog| subprog.stack_bytes)
            .collect(),
        Err(_) => walked
            .subprog_aux
            .iter()
            .map(|aux| u32::from(aux.stack_depth))
            .collect(),
    };
    log_stats(log, &depths, &walked.outcome.stats);
    result
}

/// What exploration leaves behind.
struct Walked {
    aux: AuxTable,
    subprog_aux: Vec<SubprogAux>,
    seen_direct_write: bool,
    seen_exception: bool,
    stop_points: Option<StopPoints>,
    outcome: Outcome,
}

impl Walked {
    fn of(env: Env<'_>) -> Walked {
        Walked {
            aux: env.aux,
            subprog_aux: env.subprog_aux,
            seen_direct_write: env.seen_direct_write,
            seen_exception: env.seen_exception,
            stop_points: env.stop_points,
            outcome: Outcome {
                stats: VerifierStats {
                    insns_processed: u64::from(env.insn_processed),
                    max_states_per_insn: env.states.max_per_insn,
                    total_states: env.states.total,
                    peak_states: env.states.peak,
                    mark_read: 0,
                    peak_held: env.states.peak_held,
                },
                max_pkt_offset: env.max_pkt_offset,
                max_ctx_offset: env.max_ctx_offset,
                max_tp_access: env.max_tp_access,
                max_buf_access: env.max_buf_access,
                enforce_expected_attach_type: env.enforce_expected_attach_type,
            },
        }
    }
}

fn log_stats(log: &mut Log, depths: &[u32], stats: &VerifierStats) {
    if log.is_stats() {
        vlog!(log, "verification time 0 usec\nstack depth ");
        let mut sep = "";
        for depth in depths {
            vlog!(log, "{sep}{depth}");
            sep = "+";
        }
        vlog!(log, "\n");
    }
    vlog!(
        log,
        "processed {} insns (limit {}) max_states_per_insn {} total_states {} peak_states {} mark_read 0\n",
        stats.insns_processed,
        crate::limits::PROCESSED_INSNS_MAX,
        stats.max_states_per_insn,
        stats.total_states,
        stats.peak_states
    );
}

/// What BPF_PROG_LOAD refuses before there is a log.
fn check_load_permitted(req: &LoadRequest, registry: &Registry, permits: Permits) -> Check {
    let row = registry.prog_type(req.prog_type);
    if !row.unprivileged && !permits.bpf_capable || !row.need.is_met_by(req.privilege) {
        reject!(EPERM);
    }
    if row.refused.is_some() {
        reject!(EINVAL);
    }
    Ok(())
}

/// Everything before exploration.
fn prepare<'a>(
    req: &'a LoadRequest,
    registry: &Registry,
    permits: Permits,
    log: &mut Log,
    want_lines: WantLines,
    subprog_count: &mut usize,
) -> Check<Facts<'a>> {
    let (prog_type, expected_attach_type) = resolved_prog_type(req);
    let announced = process_fd_array(req, prog_type)?;
    let func_info = check_func_info_early(req)?;
    let prog_btf = req.btf.clone();
    let found = Cell::new(0);
    let subprogs = find_functions(req, permits, &func_info, &found, log);
    *subprog_count = found.get();
    let mut subprogs = subprogs?;
    check_subprogs(&req.insns, &mut subprogs.list)?;
    check_func_info(&func_info, &subprogs.list, prog_btf.as_ref())?;
    let line_info = check_line_info(
        req,
        &req.insns,
        &subprogs.list,
        prog_btf.as_ref(),
        want_lines,
    )?;
    let insns = apply_core_relos(req)?;
    name_subprogs(&mut subprogs.list, &func_info, prog_btf.as_ref());

    let mut btfs: Vec<Btf> = Vec::new();
    btfs.extend(req.kernel_btf.clone());
    btfs.extend(prog_btf.clone());
    let (maps, inner_map) = map_table(req);
    // Objects behind pointers in map values, and modules whose functions are called.
    let of_maps = maps
        .iter()
        .filter(|map| map.record.is_some())
        .filter_map(|map| map.btf.as_ref());
    for btf in of_maps.chain(module_btfs(req)) {
        if !btfs.iter().any(|other| other.is_same(btf)) {
            btfs.push(btf.clone());
        }
    }
    let input = ResolveInput {
        req,
        insns: &insns,
        subprogs: &subprogs.list,
        btfs: &btfs,
        prog_type,
    };
    let resolved = resolve_ld_imm64(&input, announced)?;

    let kernel_calls = KernelCalls {
        registry,
        caller: Caller {
            prog_type,
            expected_attach_type,
            sleepable: req.flags & prog_load::SLEEPABLE != 0,
            privilege: req.privilege,
        },
        kernel_btf: req.kernel_btf.as_ref(),
        known: Default::default(),
    };
    let calls = |insn: RawInsn| -> CallTraits { kernel_calls.traits(insn) };
    let mut note = None;
    let cfg = CfgInput {
        insns: &insns,
        exception_cb: subprogs.exception_cb,
        calls: &calls,
        bpf_capable: permits.bpf_capable,
    };
    let flags = check_cfg(&cfg, &mut subprogs.list, &mut note);
    let slots = decode_slots(&insns, &resolved.loads);
    let mut facts = Facts {
        raw: insns,
        quick_steps: Vec::new(),
        slots,
        loads: resolved.loads,
        flags: Vec::new(),
        live_regs: Vec::new(),
        scc: Vec::new(),
        postorder: Vec::new(),
        subprogs: subprogs.list,
        maps,
        inner_map,
        used_maps: resolved.used_maps,
        btfs: resolved.btfs,
        has_kernel_btf: req.kernel_btf.is_some(),
        struct_metas: Vec::new(),
        line_info,
        prog_btf,
        fastcall: Default::default(),
        gpl_compatible: req.is_gpl_compatible(),
        hides_pointers: !permits.allow_ptr_leaks,
        exception_cb: subprogs.exception_cb,
        attach: crate::attach::AttachFacts {
            prog_type,
            expected_attach_type,
            target: None,
        },
    };
    if let (Err(_), Some(CfgNote::BackEdge { from, to })) = (&flags, note) {
        let mut prev = None;
        log_source_line(log, &facts, &mut prev, from, &alloc::format!("{from}: "));
        log_source_line(log, &facts, &mut prev, to, &alloc::format!("{to}: "));
    }
    facts.flags = flags?;
    for (flags, slot) in facts.flags.iter_mut().zip(&facts.slots) {
        flags.set(uses_of(slot));
    }
    facts.quick_steps = QuickStep::table(&facts.slots, &facts.flags);
    facts.postorder = compute_postorder(&facts.raw, &mut facts.subprogs);
    facts.attach = check_attach(req, effects_of(&facts.subprogs))?;
    // The arguments of a function of a program or module are typed by its own BTF.
    let target = facts.attach.target.as_ref().map(|target| &target.btf);
    if let Some(btf) = target.filter(|btf| !facts.btfs.iter().any(|other| other.is_same(btf))) {
        facts.btfs.push(btf.clone());
    }
    facts.struct_metas = facts.btfs.iter().map(|_| Default::default()).collect();
    facts.scc = compute_scc(&facts.raw, &mut facts.flags);
    facts.live_regs = compute_live_regs(&facts.raw, &facts.postorder, &calls);
    if log.is_level2() {
        let facts = &facts;
        // Writing to the sink cannot fail.
        let _ = write_live_regs(
            log,
            &facts.raw,
            &facts.live_regs,
            &facts.scc,
            &mut |log, idx| {
                log_insn(log, facts, idx);
                Ok(())
            },
        );
    }
    facts.fastcall = mark_fastcall_patterns(&facts.raw, &facts.subprogs, &calls);
    Ok(facts)
}

fn find_functions(
    req: &LoadRequest,
    permits: Permits,
    func_info: &[FuncInfo],
    found: &Cell<usize>,
    log: &mut Log,
) -> Check<crate::subprogs::Subprogs> {
    let mut kfuncs = KfuncCalls::new(req);
    let input = SubprogInput {
        insns: &req.insns,
        func_info,
        btf: req.btf.as_ref(),
        bpf_capable: permits.bpf_capable,
        found,
    };
    find_subprogs(&input, &mut |_, insn| kfuncs.add(insn), log)
}

fn effects_of(subprogs: &[Subprog]) -> Effects {
    Effects {
        changes_pkt_data: subprogs.first().is_some_and(|s| s.changes_pkt_data),
        might_sleep: subprogs.first().is_some_and(|s| s.might_sleep),
    }
}

/// The maps of the request, then the templates of their inner maps.
fn map_table(req: &LoadRequest) -> (Vec<Arc<MapInfo>>, Vec<Option<MapIdx>>) {
    let mut maps = req.maps.clone();
    let mut inner_map = alloc::vec![None; maps.len()];
    for index in 0..req.maps.len() {
        if let Some(inner) = &req.maps[index].inner {
            inner_map[index] = Some(MapIdx(maps.len() as u32));
            maps.push(inner.clone());
            inner_map.push(None);
        }
    }
    (maps, inner_map)
}

fn decode_slots(insns: &[RawInsn], loads: &[(u32, LdImm64)]) -> Vec<Slot> {
    let has_ignored = |insn: &RawInsn| without_ignored_fields(*insn) != *insn;
    let cleared: Vec<RawInsn>;
    let insns = if insns.iter().any(has_ignored) {
        let clear = |&insn| without_ignored_fields(insn);
        cleared = insns.iter().map(clear).collect();
        cleared.as_slice()
    } else {
        insns
    };
    let mut loads = loads.iter().peekable();
    let mut slots = Vec::with_capacity(insns.len());
    while slots.len() < insns.len() {
        let at = slots.len();
        let load = loads.next_if(|(first, _)| *first as usize == at);
        let load = load.map(|(_, value)| *value);
        match decode(insns, at) {
            Ok((Insn::LoadImm64 { dst, .. }, _)) => {
                let value = load.unwrap_or(LdImm64::Value(0, 0));
                slots.push(Slot::LoadImm64 { dst, value });
                slots.push(Slot::SecondHalf);
            }
            Ok((insn, _)) => slots.push(Slot::Insn(insn)),
            Err(_) => {
                // The kernel does not look at the second immediate of a function's address.
                let resolved = load
                    .filter(|_| insns[at].off == 0)
                    .zip(ring3_isa::Reg::new(insns[at].dst()));
                slots.push(match resolved {
                    Some((value, dst)) => Slot::LoadImm64 { dst, value },
                    None => Slot::Bad,
                });
                if insns[at].is_ld_imm64() && slots.len() < insns.len() {
                    slots.push(Slot::SecondHalf);
                }
            }
        }
    }
    slots
}

fn new_env<'a>(
    req: &'a LoadRequest,
    registry: &'a Registry,
    facts: &'a Facts,
    log: &'a mut Log,
    permits: Permits,
) -> Env<'a> {
    let count = facts.raw.len();
    Env {
        req,
        registry,
        facts,
        log,
        permits,
        modes: modes_of(req, permits),
        cur: VerifierState::new(FuncState::new(MAIN_CALLSITE, 0, 0)),
        insn_idx: 0,
        prev_insn_idx: u32::MAX,
        prev_linfo: None,
        worklist: Vec::new(),
        states: StateTable::new(count),
        aux: AuxTable::new(count),
        subprog_aux: alloc::vec![SubprogAux::default(); facts.subprogs.len()],
        stack_liveness: StackLiveness::default(),
        has_hist: false,
        id_gen: 0,
        scratched_regs: 0,
        scratched_slots: 0,
        insn_processed: 0,
        prev_insn_processed: 0,
        jmps_processed: 0,
        prev_jmps_processed: 0,
        pass_cnt: 0,
        prev_insn_print_bytes: 0,
        prev_log_position: 0,
        max_ctx_offset: 0,
        max_pkt_offset: 0,
        max_tp_access: 0,
        max_buf_access: Default::default(),
        seen_direct_write: false,
        seen_exception: false,
        explore_alu_limits: false,
        enforce_expected_attach_type: false,
        scratch: Scratch::default(),
        walked: Default::default(),
        no_reg: SharedReg::new(RegState::NOT_INIT),
        recording: None,
        stop_points: req.notes_held.then(Default::default),
    }
}

/// The main program, then every global function that verified code calls.
fn explore_all(env: &mut Env<'_>) -> Check {
    env.insn_idx = 0;
    explore_function(env, 0)?;
    let facts = env.facts;
    if facts.prog_btf.is_none() || facts.subprogs[0].func_type_id.0 == 0 {
        return Ok(());
    }
    if let Some(cb) = facts.exception_cb {
        env.subprog_aux[cb as usize].called = true;
    }
    loop {
        let mut found = false;
        for index in 1..facts.subprogs.len() {
            let aux = &env.subprog_aux[index];
            if facts.subprogs[index].linkage != Linkage::Global || !aux.called || aux.verified {
                continue;
            }
            env.insn_idx = facts.subprogs[index].start;
            explore_function(env, index as u32)?;
            if env.log.is_level() {
                let name = &facts.subprogs[index].name;
                vlog!(
                    env.log,
                    "Func#{index} ('{name}') is safe for any args that match its prototype\n"
                );
            }
            env.subprog_aux[index].verified = true;
            found = true;
        }
        if !found {
            return Ok(());
        }
    }
}

/// One function from its entry: `do_check_common`.
fn explore_function(env: &mut Env<'_>, subprog: u32) -> Check {
    let facts = env.facts;
    env.prev_linfo = None;
    env.pass_cnt += 1;
    env.cur = VerifierState::new(FuncState::new(MAIN_CALLSITE, 0, subprog));
    env.walked.forget();
    env.cur.in_sleepable = env.modes.sleepable;
    env.cur.first_insn_idx = facts.subprogs[subprog as usize].start;
    env.cur.last_insn_idx = u32::MAX;
    env.mark_all_scratched();
    set_entry_regs(env, subprog)?;
    explore(env)?;
    if !env.log.is_level2() {
        env.log.reset_to(0);
    }
    env.states.clear();
    Ok(())
}

fn set_entry_regs(env: &mut Env<'_>, subprog: u32) -> Check {
    let facts = env.facts;
    let info = &facts.subprogs[subprog as usize];
    if subprog != 0 || env.req.prog_type == ring3_uapi::ProgType::Ext {
        if env.log.is_level() {
            vlog!(env.log, "Validating {}() func#{subprog}...\n", info.name);
        }
        let args = prepare_func_args(env, subprog)?;
        if facts.exception_cb == Some(subprog) {
            env.cur.frame_mut(0).kind = FrameKind::ExceptionCallback;
            if *args.args != [FuncArg::Scalar] {
                reject!(EINVAL, "exception cb only supports single integer argument");
            }
        }
        return set_global_args(env, &args);
    }
    if facts.prog_btf.is_some() && info.func_type_id.0 != 0 {
        let matches = match prepare_func_args(env, 0) {
            Ok(args) => *args.args == [FuncArg::Ctx],
            Err(violation) => {
                if violation.kind == RejectKind::Rule {
                    log_violation(env, &violation);
                }
                false
            }
        };
        if !matches {
            env.subprog_aux[0].unreliable = true;
        }
    }
    *env.cur.reg_mut(ring3_isa::Reg::R1) = RegState::pointer(RegType::CTX, Extra::None);
    Ok(())
}

/// What is checked and rewritten once all paths are walked.
fn after_acceptance(
    req: &LoadRequest,
    registry: &Registry,
    facts: &Facts,
    permits: Permits,
    walked: &mut Walked,
) -> Check<VerifiedProgram> {
    let subprog_aux = &mut walked.subprog_aux;
    let depths: Vec<u16> = subprog_aux.iter().map(|aux| aux.stack_depth).collect();
    let removed = remove_fastcall_spills_fills(
        &facts.fastcall,
        &|subprog| subprog_aux[subprog].keep_fastcall_stack,
        &facts.subprogs,
        &depths,
    );
    for (aux, &depth) in subprog_aux.iter_mut().zip(&removed.stack_depth) {
        aux.stack_depth = depth;
    }
    let uses: Vec<SubprogUse> = subprog_aux
        .iter()
        .zip(&facts.subprogs)
        .map(|(aux, info)| SubprogUse {
            stack_depth: u32::from(aux.stack_depth),
            is_cb: aux.is_cb,
            is_async_cb: aux.is_async_cb,
            is_exception_cb: info.is_exception_cb,
        })
        .collect();
    let is_iter = req.expected_attach_type == ring3_uapi::AttachType::TraceIter.raw();
    let stack = check_max_stack_depth(&StackInput {
        insns: &facts.raw,
        subprogs: &facts.subprogs,
        uses: &uses,
        private_stack: private_stack_of(req.prog_type, is_iter, false),
        is_throw: &|insn| {
            let btf = req.kernel_btf.as_ref();
            btf.is_some_and(|btf| btf.name(ring3_btf::TypeId(insn.imm as u32)) == "bpf_throw")
        },
    })?;
    fixup(&FixupInput {
        req,
        registry,
        facts,
        aux: &walked.aux,
        subprog_aux: &walked.subprog_aux,
        stack: &stack,
        removed_spills: &removed,
        bpf_capable: permits.bpf_capable,
        direct_write: walked.seen_direct_write,
        seen_exception: walked.seen_exception,
        stop_points: walked.stop_points.take().unwrap_or_default().list(),
        outcome: walked.outcome,
    })
}
