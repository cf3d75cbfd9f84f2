//! Test runs of programs that call bpf(2) themselves, as the loaders of light skeletons do.
//!
//! ```text
//! thread of the caller                            thread of the program
//! test_run ──────────────────────────────────────> runs
//!   serves it: the caller's descriptors, memory <─── bpf_sys_bpf, bpf_sys_close, bpf_copy_from_user
//!   answer ──────────────────────────────────────> goes on
//! ```
//! Two threads, because what serves a command is borrowed from the call, and what a helper finds must own what it needs. The program sees the task
//! that calls all the same.
//!
//! Addresses in the attributes of a program are this process's, as they are the kernel's there; logs are written where the caller has its memory, and
//! what the program reads as user memory is the caller's.

use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};

use parking_lot::Mutex;
use ring3_btf::{Btf, Kind};
use ring3_helpers::syscall::{SyscallHost, SyscallRun, read_program_memory};
use ring3_isa::{CallTarget, Insn, decode_xlated};
use ring3_objects::{Error, Program, TestRun, TestRunResult};
use ring3_runtime::{RunContext, current_task, with_run_context};
use ring3_sync::rcu;
use ring3_uapi::{Cmd, Errno, FuncId};

use crate::{GuestMemory, attr::Attr, memory::read_vec, shim::Call, support};

/// What a program asks for.
enum Request {
    Bpf { cmd: u32, attr: Vec<u8> },
    Close { fd: i32 },
    Read { address: u64, len: usize },
}

/// What it is told: the command's result, and the bytes that were read.
type Answer = Result<(u64, Vec<u8>), Errno>;

struct Asked {
    request: Request,
    answer: SyncSender<Answer>,
}

/// Bytes of user memory that are asked for at once.
const READ_BYTES_MAX: usize = 64 << 10;

/// The program's side.
struct Asking {
    kernel: Option<Btf>,
    requests: Mutex<Sender<Asked>>,
}

impl Asking {
    /// # Errors
    /// As the command; EINTR: nobody serves any more.
    fn ask(&self, request: Request) -> Answer {
        let (answer, answered) = sync_channel(1);
        let asked = Asked { request, answer };
        self.requests.lock().send(asked).map_err(|_| Errno::EINTR)?;
        answered.recv().map_err(|_| Errno::EINTR)?
    }
}

impl SyscallHost for Asking {
    fn find_type(&self, name: &str, kind: Kind) -> Option<u32> {
        let id = self.kernel.as_ref()?.find_by_name_kind(name, kind)?;
        Some(id.0)
    }

    fn find_symbol(&self, _name: &str) -> Option<u64> {
        None
    }

    fn bpf(&self, cmd: u32, attr: &[u8]) -> Result<u64, Errno> {
        let attr = attr.to_owned();
        self.ask(Request::Bpf { cmd, attr })
            .map(|(result, _)| result)
    }

    fn read_user(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let mut address = address;
        for piece in into.chunks_mut(READ_BYTES_MAX) {
            let len = piece.len();
            let (_, bytes) = self.ask(Request::Read { address, len })?;
            piece.copy_from_slice(&bytes);
            address = address.wrapping_add(len as u64);
        }
        Ok(())
    }

    fn close(&self, fd: u32) -> Result<(), Errno> {
        self.ask(Request::Close { fd: fd as i32 }).map(drop)
    }
}

/// Memory of a command that a program gave.
struct ProgramMemory<'a> {
    caller: &'a mut dyn GuestMemory,
}

impl GuestMemory for ProgramMemory<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        read_program_memory(address, into)
    }

    /// Only logs are written by the commands that programs may give.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.caller.write(address, bytes)
    }
}

/// Helpers that ask.
const ASKING: [FuncId; 5] = [
    FuncId::SysBpf,
    FuncId::SysClose,
    FuncId::CopyFromUser,
    FuncId::ProbeReadUser,
    FuncId::ProbeReadUserStr,
];

/// Whether a program may ask for anything.
pub(crate) fn asks(prog: &Program) -> bool {
    let insns = &prog.verified().insns;
    let mut at = 0;
    while let Ok((insn, slots)) = decode_xlated(insns, at) {
        if let Insn::Call(CallTarget::Helper(id)) = insn
            && ASKING.iter().any(|helper| helper.raw() == id as u32)
        {
            return true;
        }
        at += slots;
    }
    false
}

/// Runs a program and serves what it asks for meanwhile.
///
/// # Errors
/// As [`Program::test_run_with`].
pub(crate) fn run(
    call: &mut Call<'_>,
    prog: &Program,
    run: &TestRun,
) -> Result<TestRunResult, Error> {
    let (requests, asked) = channel::<Asked>();
    let task = current_task();
    let kernel = call.system.kernel_btf();
    std::thread::scope(|scope| {
        let running = scope.spawn(move || {
            let requests = Mutex::new(requests);
            let host = SyscallRun(Box::new(Asking { kernel, requests }));
            let context = RunContext {
                task: Some(task),
                extension: Some(&host),
                ..RunContext::default()
            };
            with_run_context(&context, || prog.test_run_with(run))
        });
        // Until the program and its sender are gone.
        for Asked { request, answer } in asked {
            // The program is in a read section: nothing here may wait for it to end.
            let _section = rcu::read();
            let _ = answer.send(serve(call, request));
        }
        running.join().unwrap_or_else(|_| {
            let text = format!("program '{}': its run panicked", prog.name());
            Err(Error::new(Errno::EFAULT, text))
        })
    })
}

/// # Errors
/// As the command. ENOTSUPP: one that waits for programs to end, as attaching does.
fn serve(call: &mut Call<'_>, request: Request) -> Answer {
    let (cmd, mut attr) = match request {
        Request::Close { fd } => return call.caller.close(fd).map(|()| (0, Vec::new())),
        Request::Read { address, len } => {
            return read_vec(call.memory, address, len).map(|bytes| (0, bytes));
        }
        Request::Bpf { cmd, attr } => (cmd, attr),
    };
    if [Cmd::RawTracepointOpen, Cmd::LinkCreate]
        .map(Cmd::raw)
        .contains(&cmd)
    {
        return Err(Errno::ENOTSUPP);
    }
    let row = support::find(cmd).ok_or(Errno::EINVAL)?;
    let attr = Attr::new(&mut attr)?;
    attr.check_end(row.attr_bytes)?;
    let mut inner = Call {
        system: call.system,
        bpffs: call.bpffs,
        net: call.net,
        tracing: call.tracing,
        caller: call.caller,
        attr,
        memory: &mut ProgramMemory {
            caller: call.memory,
        },
    };
    (row.handler)(&mut inner).map(|result| (result as u64, Vec::new()))
}
