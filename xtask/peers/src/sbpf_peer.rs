//! The crate solana-sbpf as a peer, as its users run it: every access is translated and checked, instructions are counted. It gets the
//! instructions after our verifier's rewrites as a program of its version 3, whose context and packet lie in the input region.

use std::{ptr::NonNull, sync::Arc, time::Instant};

use solana_sbpf::{
    ebpf::{MM_INPUT_START, MM_STACK_START},
    elf::Executable,
    error::ProgramResult,
    memory_region::{MemoryMapping, MemoryRegion},
    program::{BuiltinProgram, FunctionRegistry, SBPFVersion},
    vm::{Config, ContextObject, EbpfVm, ExecutionMode},
};

use crate::Outcome;

const VERSION: SBPFVersion = SBPFVersion::V3;
const BUDGET: u64 = u64::MAX / 2;
const CONTEXT_BYTES: usize = 16;

/// What a run counts and maps.
struct Run {
    remaining: u64,
    mapping: MemoryMapping,
}

impl ContextObject for Run {
    fn consume(&mut self, amount: u64) {
        self.remaining = self.remaining.saturating_sub(amount);
    }

    fn get_remaining(&self) -> u64 {
        self.remaining
    }

    fn active_mapping_ptr(&mut self) -> NonNull<MemoryMapping> {
        NonNull::from(&mut self.mapping)
    }
}

/// A program in solana-sbpf, compiled.
pub(crate) struct Sbpf {
    executable: Executable<Run>,
    loader: Arc<BuiltinProgram<Run>>,
    run: Box<Run>,
    // What the mapping points to.
    _stack: Box<[u8]>,
    _input: Box<[u8]>,
}

fn executable(insns: &[u8]) -> Outcome<(Executable<Run>, Arc<BuiltinProgram<Run>>)> {
    let loader = Arc::new(BuiltinProgram::new_loader(Config::default()));
    let executable = Executable::new_from_text_bytes(
        insns,
        Arc::clone(&loader),
        VERSION,
        FunctionRegistry::default(),
    )
    .map_err(|error| error.to_string())?;
    Ok((executable, loader))
}

impl Sbpf {
    /// Loads and compiles.
    pub(crate) fn new(insns: &[u8], packet: &[u8]) -> Outcome<Sbpf> {
        let (executable, loader) = executable(insns)?;
        executable
            .jit_compile()
            .map_err(|error| error.to_string())?;
        let config = loader.get_config();
        let mut stack = vec![0u8; config.stack_size()].into_boxed_slice();
        let data = MM_INPUT_START + CONTEXT_BYTES as u64;
        let mut input = Vec::with_capacity(CONTEXT_BYTES + packet.len());
        input.extend_from_slice(&data.to_le_bytes());
        input.extend_from_slice(&(data + packet.len() as u64).to_le_bytes());
        input.extend_from_slice(packet);
        let mut input = input.into_boxed_slice();
        let regions = vec![
            MemoryRegion::new(&raw mut *stack, MM_STACK_START),
            MemoryRegion::new(&raw mut *input, MM_INPUT_START),
        ];
        // SAFETY: 1. stack and input are kept as long as the mapping, and nobody else touches them.
        let mapping = unsafe { MemoryMapping::new(regions, config, VERSION) }
            .map_err(|error| error.to_string())?;
        Ok(Sbpf {
            executable,
            loader,
            run: Box::new(Run {
                remaining: BUDGET,
                mapping,
            }),
            _stack: stack,
            _input: input,
        })
    }

    /// One run of the compiled program; all bits set if it failed.
    pub(crate) fn run(&mut self) -> u32 {
        self.run.remaining = BUDGET;
        let stack_bytes = self.loader.get_config().stack_size();
        let mut vm = EbpfVm::new(
            Arc::clone(&self.loader),
            VERSION,
            &mut *self.run,
            stack_bytes,
        );
        vm.registers[1] = MM_INPUT_START;
        let mut mode = ExecutionMode::Jit;
        match vm.execute_program(&self.executable, &mut mode, &mut []) {
            (_, ProgramResult::Ok(r0)) => r0 as u32,
            (_, ProgramResult::Err(_)) => u32::MAX,
        }
    }
}

/// Nanoseconds of a compilation.
pub(crate) fn compile_ns(insns: &[u8]) -> f64 {
    let Ok((executable, _)) = executable(insns) else {
        return f64::INFINITY;
    };
    let begin = Instant::now();
    let compiled = executable.jit_compile();
    let took = begin.elapsed().as_nanos() as f64;
    if compiled.is_ok() {
        took
    } else {
        f64::INFINITY
    }
}
