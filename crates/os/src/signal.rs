//! Faults and breakpoints of this process: handlers of SIGSEGV, SIGBUS and SIGTRAP that may repair the thread's registers, in front of the handler
//! that was there before.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::Errno;

/// A general register of x86-64 by its encoding, 0 (rax) to 15 (r15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u8);

impl Register {
    /// The register with this encoding, 0..=15.
    pub const fn new(encoding: u8) -> Option<Register> {
        if encoding < 16 {
            Some(Register(encoding))
        } else {
            None
        }
    }

    fn greg(self) -> usize {
        const GREGS: [libc::c_int; 16] = [
            libc::REG_RAX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RBX,
            libc::REG_RSP,
            libc::REG_RBP,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
        ];
        GREGS[self.0 as usize] as usize
    }
}

/// The faulting thread's registers, as the handler sees and may change them.
pub struct FaultContext<'a> {
    context: *mut libc::ucontext_t,
    _handler: PhantomData<&'a mut libc::ucontext_t>,
}

impl FaultContext<'_> {
    /// Address of the faulting instruction.
    pub fn instruction_pointer(&self) -> usize {
        // SAFETY: 1. the kernel passed a valid ucontext that lives as long as the handler runs.
        unsafe { (*self.context).uc_mcontext.gregs[libc::REG_RIP as usize] as usize }
    }

    /// Where the thread goes on.
    pub fn set_instruction_pointer(&mut self, address: usize) {
        // SAFETY: as `instruction_pointer`.
        unsafe { (*self.context).uc_mcontext.gregs[libc::REG_RIP as usize] = address as i64 }
    }

    /// A general register.
    pub fn register(&self, register: Register) -> u64 {
        // SAFETY: as `instruction_pointer`.
        unsafe { (*self.context).uc_mcontext.gregs[register.greg()] as u64 }
    }

    /// Sets a general register.
    pub fn set_register(&mut self, register: Register, value: u64) {
        // SAFETY: as `instruction_pointer`.
        unsafe { (*self.context).uc_mcontext.gregs[register.greg()] = value as i64 }
    }
}

/// What decides on a fault: true if it repaired the context, false to pass the fault on.
pub type FaultHandler = fn(&mut FaultContext<'_>) -> bool;

/// The installed handler as a pointer; null before the first installation.
static HANDLER: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// The installed handler of traps, as [`HANDLER`].
static TRAP_HANDLER: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// What was there before us, one per signal; written once before our action is installed.
struct Previous(std::cell::UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: 1. written once, before the signal action that reads it is installed.
unsafe impl Sync for Previous {}

static PREVIOUS_SEGV: Previous = Previous(std::cell::UnsafeCell::new(MaybeUninit::uninit()));
static PREVIOUS_BUS: Previous = Previous(std::cell::UnsafeCell::new(MaybeUninit::uninit()));
static PREVIOUS_TRAP: Previous = Previous(std::cell::UnsafeCell::new(MaybeUninit::uninit()));

/// Puts `handler` in front of the process's handlers of SIGSEGV and SIGBUS. Call once per process.
///
/// # Errors
/// `EBUSY`: called before. The errno of sigaction(2).
///
/// # Safety
/// `handler` is async-signal-safe: no lock, no allocation, no panic.
pub unsafe fn install_fault_handler(handler: FaultHandler) -> Result<(), Errno> {
    let signals = [
        (libc::SIGSEGV, &PREVIOUS_SEGV),
        (libc::SIGBUS, &PREVIOUS_BUS),
    ];
    install(&HANDLER, handler, &signals)
}

/// As [`install_fault_handler`] for SIGTRAP, which a thread gets behind a breakpoint instruction.
///
/// # Errors
/// As [`install_fault_handler`].
///
/// # Safety
/// As [`install_fault_handler`].
pub unsafe fn install_trap_handler(handler: FaultHandler) -> Result<(), Errno> {
    install(&TRAP_HANDLER, handler, &[(libc::SIGTRAP, &PREVIOUS_TRAP)])
}

fn install(
    place: &AtomicPtr<()>,
    handler: FaultHandler,
    signals: &[(libc::c_int, &Previous)],
) -> Result<(), Errno> {
    let installed = place.compare_exchange(
        std::ptr::null_mut(),
        handler as *mut (),
        Ordering::SeqCst,
        Ordering::SeqCst,
    );
    if installed.is_err() {
        return Err(Errno::EBUSY);
    }
    for (signal, previous) in signals {
        // SAFETY: 1. an all-zero sigaction is valid; 2. the storage is static and unread until our action is installed, which is the
        // second call; 3. the action's function has the signature that SA_SIGINFO asks for.
        unsafe {
            let storage: *mut libc::sigaction = previous.0.get().cast();
            crate::check(libc::sigaction(*signal, std::ptr::null(), storage).into())?;
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            libc::sigemptyset(&mut action.sa_mask);
            crate::check(libc::sigaction(*signal, &action, std::ptr::null_mut()).into())?;
        }
    }
    Ok(())
}

extern "C" fn on_signal(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let (place, previous) = match signal {
        libc::SIGTRAP => (&TRAP_HANDLER, &PREVIOUS_TRAP),
        libc::SIGBUS => (&HANDLER, &PREVIOUS_BUS),
        _ => (&HANDLER, &PREVIOUS_SEGV),
    };
    let handler = place.load(Ordering::Acquire);
    if !handler.is_null() {
        // SAFETY: 1. only `install` stores here, and only values of this type.
        let handler: FaultHandler = unsafe { std::mem::transmute(handler) };
        let mut fault = FaultContext {
            context: context.cast(),
            _handler: PhantomData,
        };
        if handler(&mut fault) {
            return;
        }
    }
    // SAFETY: 1. initialised before this function could be called; 2. a function in a sigaction takes what its flags say; 3. with the
    // default action restored, returning re-executes the faulting instruction and the process ends as it would have without us.
    unsafe {
        let previous: *const libc::sigaction = previous.0.get().cast();
        match (*previous).sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                libc::sigaction(signal, previous, std::ptr::null_mut());
            }
            code if (*previous).sa_flags & libc::SA_SIGINFO != 0 => {
                let code: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(code);
                code(signal, info, context);
            }
            code => {
                let code: extern "C" fn(libc::c_int) = std::mem::transmute(code);
                code(signal);
            }
        }
    }
}
