//! What becomes of a command whose reader went away (`ring3 dump ... | head`).

/// A write to a pipe without reader ends this process quietly, as it ends other commands; Rust's runtime ignores the signal, and
/// printing then panics. For commands that print, not for processes that serve sockets.
pub fn end_at_closed_pipe() {
    // SAFETY: 1. sets a signal's disposition to the default; no handler of ours runs.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
