//! `ring3 dump`: the program after the verifier's rewrites, or its machine code, with source lines.

use std::path::PathBuf;

use clap::ValueEnum;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use ring3::{LoadOptions, isa, objects::Program, spec::InsnFacts};

use crate::{
    Failure, Outcome,
    source::{self, SourceLine},
    target::Target,
};

/// Arguments of `ring3 dump`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to show
    #[arg(value_enum)]
    form: Form,
    /// Object file
    file: PathBuf,
    /// Program; not needed if there is only one
    #[arg(short, long)]
    program: Option<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Instructions after rewrites
    Xlated,
    /// x86-64 machine code
    Jited,
}

/// The verb.
pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let object = args.target.open(&args.file)?;
    let programs = args.program.clone().map(|name| vec![name]);
    let options = LoadOptions {
        programs,
        ..LoadOptions::default()
    };
    let loaded = object
        .load_with(&options)
        .map_err(|error| format!("{}: {error}", args.file.display()))?;
    let mut programs = loaded.programs();
    let Some((name, program)) = programs.next() else {
        return Err(format!(
            "{}: no program '{}'",
            args.file.display(),
            args.program.as_deref().unwrap_or("")
        ));
    };
    if programs.next().is_some() {
        let names: Vec<_> = loaded.programs().map(|(name, _)| name).collect();
        return Err(format!(
            "several programs, choose one with -p: {}",
            names.join(", ")
        ));
    }
    println!(
        "{}  {name}  tag {}",
        program.prog_type(),
        hex(&program.tag())
    );
    match args.form {
        Form::Xlated => print_xlated(program),
        Form::Jited => print_jited(program)?,
    }
    Ok(Outcome::Done)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Prints each source line once, before the first instruction that comes from it.
struct SourceCursor<'a> {
    lines: Vec<SourceLine>,
    facts: &'a [InsnFacts],
    shown: Option<u32>,
}

impl<'a> SourceCursor<'a> {
    fn new(program: &'a Program) -> SourceCursor<'a> {
        let lines = program
            .verify_again(0)
            .map(|again| source::source_lines(&again.request))
            .unwrap_or_default();
        SourceCursor {
            lines,
            facts: &program.verified().facts,
            shown: None,
        }
    }

    /// `slot` is a slot of the program after rewrites.
    fn print_before(&mut self, slot: usize) {
        let orig_idx = self
            .facts
            .get(slot)
            .map_or(slot as u32, |fact| fact.orig_idx);
        if let Some(line) = source::line_at(&self.lines, orig_idx)
            && self.shown != Some(line.insn_idx)
        {
            println!("; {} @ {}:{}", line.text.trim(), line.file, line.line);
            self.shown = Some(line.insn_idx);
        }
    }
}

fn print_xlated(program: &Program) {
    let insns = &program.verified().insns;
    let mut source = SourceCursor::new(program);
    let mut slot = 0;
    while slot < insns.len() {
        source.print_before(slot);
        println!("{slot:4}: {}", isa::disasm(&insns[slot..], &isa::NoNames));
        slot += if insns[slot].is_ld_imm64() { 2 } else { 1 };
    }
}

/// Bytes per instruction, decoded, under the BPF instruction and source line they come from.
fn print_jited(program: &Program) -> Result<(), Failure> {
    let listing = program.engine().listing().ok_or_else(|| {
        format!(
            "program '{}' was not compiled to machine code",
            program.name()
        )
    })?;
    let insns = &program.verified().insns;
    let mut source = SourceCursor::new(program);
    let mut formatter = IntelFormatter::new();
    for line in &listing.lines {
        if let Some((slot, insn)) = line
            .slot
            .and_then(|slot| Some((slot, insns.get(slot as usize..)?)))
        {
            source.print_before(slot as usize);
            println!("{slot:4}: {}", isa::disasm(insn, &isa::NoNames));
        }
        let address = listing.address + u64::from(line.offset);
        let mut decoder = Decoder::with_ip(64, &line.bytes, address, DecoderOptions::NONE);
        while decoder.can_decode() {
            let start = decoder.position();
            let instruction = decoder.decode();
            let mut text = String::new();
            formatter.format(&instruction, &mut text);
            println!(
                "      {:6x}:  {:30} {text}",
                line.offset as usize + start,
                hex(&line.bytes[start..decoder.position()])
            );
        }
    }
    Ok(())
}
