//! Random operation sequences on every map type, each against a simple model.

#[path = "../common/mod.rs"]
mod common;
mod keyless;
mod objects;
mod percpu;
mod random;
mod rings;
mod storage;
mod tables;
