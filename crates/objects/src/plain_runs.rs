//! Test runs of the types whose context is plain memory: syscall programs and raw tracepoints. Types over packets are `ring3-net`'s.
//!
//! # Source
//! BPF_PROG_TEST_RUN of Linux 6.18: which attributes must be zero, and how long a context may be.

use std::sync::Arc;

use ring3_btf::{Btf, Kind};
use ring3_helpers::{
    plain_context::{RAW_TRACEPOINT_ARGS, SYSCALL_CTX_BYTES_MAX, run_raw_tracepoint, run_syscall},
    syscall::{SyscallHost, SyscallRun},
};
use ring3_runtime::{RunContext, current_task, with_run_context, with_run_extension};
use ring3_uapi::{Errno, ProgType};

use crate::{Error, ProgTypeOps, Program, TestRun, TestRunResult};

/// `BPF_F_TEST_RUN_ON_CPU`
const RUN_ON_CPU: u32 = 1;

/// The types that need no hook's crate for a test run.
pub(crate) fn ops() -> [(ProgType, Arc<dyn ProgTypeOps>); 2] {
    [
        (ProgType::Syscall, Arc::new(SyscallOps)),
        (ProgType::RawTracepoint, Arc::new(RawTracepointOps)),
    ]
}

fn invalid(prog: &Program, what: &str) -> Error {
    Error::new(Errno::EINVAL, format!("program '{}': {what}", prog.name()))
}

/// The context must hold what the program may access.
fn check_ctx(prog: &Program, len: usize, most: usize) -> Result<(), Error> {
    let least = prog.verified().max_ctx_offset as usize;
    if (least..=most).contains(&len) {
        return Ok(());
    }
    let text = format!("ctx_in of {len} bytes, {least} to {most} are taken");
    Err(invalid(prog, &text))
}

/// What syscall programs ask of the system they were loaded into.
struct KernelNames(Option<Btf>);

impl SyscallHost for KernelNames {
    fn find_type(&self, name: &str, kind: Kind) -> Option<u32> {
        let id = self.0.as_ref()?.find_by_name_kind(name, kind)?;
        Some(id.0)
    }

    /// No symbol of a kernel stands behind this process.
    fn find_symbol(&self, _name: &str) -> Option<u64> {
        None
    }
}

struct SyscallOps;

impl ProgTypeOps for SyscallOps {
    fn test_run(&self, prog: &Program, run: &TestRun) -> Result<TestRunResult, Error> {
        if !run.data_in.is_empty() || run.repeat != 0 || run.flags != 0 {
            return Err(invalid(prog, "data_in, repeat and flags must be 0"));
        }
        check_ctx(prog, run.ctx_in.len(), SYSCALL_CTX_BYTES_MAX)?;
        let mut ctx_out = run.ctx_in.clone();
        let mut once = || {
            run_syscall(prog, &mut ctx_out)
                .map_err(|errno| Error::new(errno, "not a syscall program"))
        };
        // Whoever asked for the run may answer the program itself.
        if with_run_extension(|host: Option<&SyscallRun>| host.is_some()) {
            let retval = once()?;
            return Ok(TestRunResult {
                retval,
                ctx_out,
                ..TestRunResult::default()
            });
        }
        let kernel_btf = prog.system().and_then(|system| system.kernel_btf());
        let host = SyscallRun(Box::new(KernelNames(kernel_btf)));
        let context = RunContext {
            task: Some(current_task()),
            extension: Some(&host),
            ..RunContext::default()
        };
        let retval = with_run_context(&context, once)?;
        Ok(TestRunResult {
            retval,
            ctx_out,
            ..TestRunResult::default()
        })
    }
}

struct RawTracepointOps;

impl ProgTypeOps for RawTracepointOps {
    fn test_run(&self, prog: &Program, run: &TestRun) -> Result<TestRunResult, Error> {
        if !run.data_in.is_empty() || run.repeat != 0 || run.batch_size != 0 {
            return Err(invalid(prog, "data_in, repeat and batch_size must be 0"));
        }
        if run.flags & !RUN_ON_CPU != 0 || (run.flags == 0 && run.cpu != 0) {
            return Err(invalid(prog, "flags other than BPF_F_TEST_RUN_ON_CPU"));
        }
        check_ctx(prog, run.ctx_in.len(), RAW_TRACEPOINT_ARGS * 8)?;
        let mut args = [0; RAW_TRACEPOINT_ARGS];
        for (arg, bytes) in args.iter_mut().zip(run.ctx_in.chunks(8)) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            *arg = u64::from_ne_bytes(word);
        }
        let once = || run_raw_tracepoint(prog, &args);
        let retval = if run.flags & RUN_ON_CPU == 0 {
            once()
        } else {
            on_cpu(run.cpu as usize, once)
        };
        let retval = retval.map_err(|errno| {
            let place = format!("program '{}' on CPU {}", prog.name(), run.cpu);
            Error::new(errno, place)
        })?;
        Ok(TestRunResult {
            retval,
            ..TestRunResult::default()
        })
    }
}

/// Runs `body` in a thread bound to a CPU.
///
/// # Errors
/// ENXIO: no such CPU here.
fn on_cpu(cpu: usize, body: impl FnOnce() -> Result<u32, Errno> + Send) -> Result<u32, Errno> {
    std::thread::scope(|scope| {
        let bound = scope.spawn(|| {
            ring3_os::cpu::bind_to_cpu(cpu).map_err(|_| Errno::ENXIO)?;
            body()
        });
        bound.join().unwrap_or(Err(Errno::EFAULT))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ProgAttr, System};
    use ring3_isa::RawInsn;

    fn load(
        prog_type: ProgType,
        flags: u32,
        insns: &[(u8, u8, u8, i16, i32)],
    ) -> (Arc<System>, Arc<Program>) {
        let insns = insns
            .iter()
            .map(|&(code, dst, src, off, imm)| RawInsn::new(code, dst, src, off, imm))
            .collect();
        let mut attr = ProgAttr::new(prog_type, insns);
        attr.flags = flags;
        let system = System::new();
        let prog = Program::load(&system, attr).unwrap_or_else(|error| panic!("{error}"));
        (system, prog)
    }

    #[test]
    fn a_syscall_program_changes_its_context() {
        const SLEEPABLE: u32 = 1 << 4;
        // r0 = ctx[1]; ctx[0] = 7
        let (_system, prog) = load(
            ProgType::Syscall,
            SLEEPABLE,
            &[(0x79, 0, 1, 8, 0), (0x7a, 1, 0, 0, 7), (0x95, 0, 0, 0, 0)],
        );
        let run = |ctx: &[u8]| {
            prog.test_run_with(&TestRun {
                ctx_in: ctx.to_vec(),
                ..TestRun::default()
            })
        };
        let result = run(&[5; 17]).unwrap();
        assert_eq!(result.retval, 0x0505_0505);
        assert_eq!(result.ctx_out[..8], 7u64.to_ne_bytes());
        assert_eq!(result.ctx_out[8..], [5; 9]);
        assert_eq!(run(&[5; 15]).unwrap_err().errno, Errno::EINVAL);
        assert_eq!(run(&[5; 65536]).unwrap_err().errno, Errno::EINVAL);
        let repeated = TestRun {
            ctx_in: vec![0; 16],
            repeat: 1,
            ..TestRun::default()
        };
        assert_eq!(
            prog.test_run_with(&repeated).unwrap_err().errno,
            Errno::EINVAL
        );
    }

    #[test]
    fn a_control_is_refused_or_written_otherwise() {
        use crate::EngineKind;
        use ring3_helpers::sysctl::{Sysctl, SysctlAccess, run_sysctl};
        // Reads are allowed at an even position only; writes write "9\n" at position 3 instead.
        let insns = [
            (0xbf, 6, 1, 0, 0),
            (0x61, 1, 6, 0, 0),
            (0x55, 1, 0, 4, 0),
            (0x61, 0, 6, 4, 0),
            (0x57, 0, 0, 0, 1),
            (0xa7, 0, 0, 0, 1),
            (0x95, 0, 0, 0, 0),
            (0xb7, 2, 0, 0, 3),
            (0x63, 6, 2, 4, 0),
            (0x7a, 10, 0, -8, 0x0a39),
            (0xbf, 1, 6, 0, 0),
            (0xbf, 2, 10, 0, 0),
            (0x07, 2, 0, 0, -8),
            (0xb7, 3, 0, 0, 2),
            (0x85, 0, 0, 0, 104),
            (0x57, 0, 0, 0, 1),
            (0xa7, 0, 0, 0, 1),
            (0x95, 0, 0, 0, 0),
        ];
        for engine in [EngineKind::Jit, EngineKind::Interp] {
            let insns =
                insns.map(|(code, dst, src, off, imm)| RawInsn::new(code, dst, src, off, imm));
            let mut attr = ProgAttr::new(ProgType::CgroupSysctl, insns.to_vec());
            attr.engine = engine;
            let system = System::new();
            let prog = Program::load(&system, attr).unwrap_or_else(|error| panic!("{error}"));
            let mut sysctl = Sysctl {
                name: "net/ipv4/tcp_mem".into(),
                current: None,
                access: SysctlAccess::Read,
                position: 4,
            };
            assert_eq!(run_sysctl(&*prog, &mut sysctl), Ok(0));
            sysctl.position = 5;
            let refused = Errno::EPERM.negated() as i32;
            assert_eq!(run_sysctl(&*prog, &mut sysctl), Ok(refused));
            assert_eq!((sysctl.position, &sysctl.access), (5, &SysctlAccess::Read));
            sysctl.access = SysctlAccess::Write(b"1 2 3\n".to_vec());
            assert_eq!(run_sysctl(&*prog, &mut sysctl), Ok(0));
            assert_eq!(sysctl.position, 3);
            assert_eq!(sysctl.access, SysctlAccess::Write(b"9\n".to_vec()));
            sysctl.name.clear();
            assert_eq!(run_sysctl(&*prog, &mut sysctl), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn a_raw_tracepoint_reads_its_arguments_on_the_cpu_asked_for() {
        // r0 = args[1] + 256 * cpu
        let (_system, prog) = load(
            ProgType::RawTracepoint,
            0,
            &[
                (0x79, 6, 1, 8, 0),
                (0x85, 0, 0, 0, 8),
                (0x67, 0, 0, 0, 8),
                (0x0f, 0, 6, 0, 0),
                (0x95, 0, 0, 0, 0),
            ],
        );
        let mut args = vec![0; 16];
        args[8] = 9;
        let run = TestRun {
            ctx_in: args,
            flags: RUN_ON_CPU,
            ..TestRun::default()
        };
        assert_eq!(prog.test_run_with(&run).unwrap().retval, 9);
        let wrong = [
            TestRun {
                cpu: 4096,
                ..run.clone()
            },
            TestRun {
                flags: 2,
                ..run.clone()
            },
            TestRun {
                ctx_in: vec![0; 8],
                ..run.clone()
            },
            TestRun {
                ctx_in: vec![0; 104],
                ..run.clone()
            },
            TestRun {
                flags: 0,
                cpu: 1,
                ..run
            },
        ];
        let errnos = wrong.map(|run| prog.test_run_with(&run).unwrap_err().errno);
        assert_eq!(errnos[0], Errno::ENXIO);
        assert_eq!(errnos[1..], [Errno::EINVAL; 4]);
    }
}
