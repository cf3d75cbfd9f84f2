//! Development commands: a table of verbs.

fn main() {}
