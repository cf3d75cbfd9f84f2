//! The current run context of a thread: which task and which hook state helpers see while a program runs.
//!
//! One pointer per thread. A hook that has something to say ([`RunContext`]) installs it for the length of a run with [`with_run_context`];
//! hooks that have nothing pay nothing. Layers above carry their own state as `extension` (net: device model, redirect target) and read it
//! back by type, so that this crate knows none of them.

use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;

use ring3_sync::rcu;

/// The task that `bpf_get_current_*` describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Thread id (the kernel's `pid`).
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Name, zero-padded.
    pub comm: [u8; 16],
    /// cgroup id.
    pub cgroup_id: u64,
}

impl Task {
    /// The calling thread as the host knows it. The cgroup id is 1, the root's, unless a model says otherwise.
    pub fn host() -> Task {
        let (pid, tgid) = ring3_os::task::ids();
        let (uid, gid) = ring3_os::task::owner();
        Task {
            pid,
            tgid,
            uid,
            gid,
            comm: ring3_os::task::comm(),
            cgroup_id: 1,
        }
    }
}

/// What a hook tells helpers about the run.
#[derive(Default)]
pub struct RunContext<'a> {
    /// The task, where it is not the calling thread.
    pub task: Option<Task>,
    /// `bpf_get_attach_cookie`.
    pub attach_cookie: u64,
    /// Attach type of the hook, raw.
    pub attach_type: u32,
    /// What programs of one hook hand on: `bpf_get_retval`, `bpf_set_retval`.
    pub retval: Cell<i32>,
    /// State of the layer that runs the program.
    pub extension: Option<&'a dyn Any>,
}

thread_local! {
    static CURRENT: Cell<*const RunContext<'static>> = const { Cell::new(std::ptr::null()) };
}

/// Puts the previous context back, also when the body unwinds.
struct Restore<'a> {
    previous: *const RunContext<'static>,
    /// The ids that programs saw, where this context has changed them.
    task_ids: Option<u64>,
    _body: PhantomData<&'a ()>,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        CURRENT.set(self.previous);
        if let Some(ids) = self.task_ids {
            rcu::thread().replace_task_ids(ids);
        }
    }
}

/// Runs `body` (which runs programs) under `context`. Contexts nest; the inner one hides the outer.
pub fn with_run_context<R>(context: &RunContext<'_>, body: impl FnOnce() -> R) -> R {
    let previous = CURRENT.replace(std::ptr::from_ref(context).cast());
    // Without a context programs see the thread itself already.
    let task_ids = (context.task.is_some() || !previous.is_null()).then(|| {
        let (pid, tgid) = context
            .task
            .map_or_else(ring3_os::task::ids, |task| (task.pid, task.tgid));
        rcu::thread().replace_task_ids(u64::from(tgid) << 32 | u64::from(pid))
    });
    let _restore = Restore {
        previous,
        task_ids,
        _body: PhantomData,
    };
    body()
}

/// Gives `body` the installed context, if any.
fn with_current<R>(body: impl FnOnce(Option<&RunContext<'_>>) -> R) -> R {
    let current = CURRENT.get();
    // SAFETY: 1. the pointer is set only by `with_run_context`, whose borrow of the context outlives its body; 2. the guard removes
    // it before that borrow ends; 3. the closure cannot keep the reference: its lifetime is bound to the call.
    body(unsafe { current.as_ref() })
}

/// `bpf_get_current_pid_tgid`: tgid << 32 | pid of the task that helpers report.
#[inline]
pub fn current_ids() -> u64 {
    rcu::thread().task_ids()
}

/// The task that helpers report: the context's, or the calling thread.
pub fn current_task() -> Task {
    with_current(|context| context.and_then(|context| context.task)).unwrap_or_else(Task::host)
}

impl RunContext<'_> {
    /// What the programs before handed on; 0 outside of a hook.
    pub fn current_retval() -> i32 {
        with_current(|context| context.map_or(0, |context| context.retval.get()))
    }

    /// Hands a return value on; false: no hook is running.
    pub fn set_current_retval(retval: i32) -> bool {
        with_current(|context| context.map(|context| context.retval.set(retval)).is_some())
    }

    /// Attach type of the hook that runs; 0 outside of one.
    pub fn current_attach_type() -> u32 {
        with_current(|context| context.map_or(0, |context| context.attach_type))
    }

    /// The attach cookie of the current run; 0 without one.
    pub fn current_attach_cookie() -> u64 {
        with_current(|context| context.map_or(0, |context| context.attach_cookie))
    }
}

/// Gives `body` the current run's extension of type `T`; `None` if no hook of that layer is running.
pub fn with_run_extension<T: 'static, R>(body: impl FnOnce(Option<&T>) -> R) -> R {
    with_current(|context| body(context.and_then(|context| context.extension?.downcast_ref::<T>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Net(u32);

    #[test]
    fn contexts_nest_and_end() {
        let outer_state = Net(1);
        let inner_state = Net(2);
        let ifindex = || with_run_extension(|net: Option<&Net>| net.map(|net| net.0));
        assert_eq!(ifindex(), None);
        let outer = RunContext {
            extension: Some(&outer_state),
            attach_cookie: 9,
            ..RunContext::default()
        };
        with_run_context(&outer, || {
            assert_eq!(ifindex(), Some(1));
            assert_eq!(RunContext::current_attach_cookie(), 9);
            let inner = RunContext {
                extension: Some(&inner_state),
                ..RunContext::default()
            };
            with_run_context(&inner, || assert_eq!(ifindex(), Some(2)));
            assert!(with_run_extension(|other: Option<&String>| other.is_none()));
            assert_eq!(ifindex(), Some(1));
        });
        assert_eq!(ifindex(), None);
        assert_eq!(RunContext::current_attach_cookie(), 0);
    }

    #[test]
    fn the_task_is_the_thread_unless_modelled() {
        assert_eq!(current_task().tgid, std::process::id());
        let task = Task {
            pid: 5,
            tgid: 4,
            uid: 1,
            gid: 2,
            comm: *b"model\0\0\0\0\0\0\0\0\0\0\0",
            cgroup_id: 3,
        };
        let context = RunContext {
            task: Some(task),
            ..RunContext::default()
        };
        let own = current_ids();
        assert_eq!(own >> 32, u64::from(std::process::id()));
        let plain = RunContext::default();
        let modelled = 4 << 32 | 5;
        with_run_context(&context, || {
            assert_eq!((current_task(), current_ids()), (task, modelled));
            with_run_context(&plain, || assert_eq!(current_ids(), own));
            assert_eq!(current_ids(), modelled);
        });
        assert_eq!(current_ids(), own);
    }

    #[test]
    fn a_panicking_run_restores_the_context() {
        let state = Net(1);
        let context = RunContext {
            extension: Some(&state),
            ..RunContext::default()
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            with_run_context(&context, || panic!("in a run"));
        }));
        assert!(result.is_err());
        assert!(with_run_extension(|net: Option<&Net>| net.is_none()));
    }
}
