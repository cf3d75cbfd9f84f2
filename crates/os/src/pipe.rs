//! What becomes of a command whose reader went away (`ring3 dump ... | head`).

/// A write to a pipe without reader ends this process quietly, as it ends other commands; Rust's runtime ignores the signal, and
/// printing then panics. For commands that print, not for processes that serve sockets.
pub fn end_at_closed_pipe() {
    // SAFETY: 1. sets a signal's disposition to the default; no handler of ours runs.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// A write of this thread, and of those it makes, into a pipe or socket that nobody reads is an error, whatever the process does about the signal.
pub fn ignore_closed_pipes_in_this_thread() {
    // SAFETY: 1. the set is initialised before it is used; 2. only this thread's mask is changed.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}
