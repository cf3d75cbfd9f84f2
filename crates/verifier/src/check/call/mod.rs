//! Calls: helpers, kfuncs, subprograms, callbacks.
pub(crate) mod arg_type;
pub(crate) mod args;
pub(crate) mod callback;
pub(crate) mod format;
pub(crate) mod func_args;
pub(crate) mod helper;
pub(crate) mod kfunc;
pub(crate) mod ret;
pub(crate) mod subprog;
