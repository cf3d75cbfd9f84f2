//! Tail calls: limits, fallthrough, frames.
