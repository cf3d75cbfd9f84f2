//! Packets through XDP, five classifiers at tcx that each parse headers and keep a table, and clsact: a generated capture of 100,000, on one core.

use std::time::Instant;

use ring3::EngineKind;

use crate::{
    Outcome,
    report::{Report, Row},
};

#[path = "../../../crates/net/tests/pipeline/mod.rs"]
#[expect(dead_code, reason = "shared with the test of net")]
mod pipeline;

use pipeline::{Pipeline, read_capture, write_capture};

const PACKETS: u64 = 100_000;
const ROUNDS: usize = 15;
const CHUNK: usize = 500;
/// A million packets a second.
const GOAL_NS: f64 = 1000.0;

pub(crate) fn bench() -> Outcome<Report> {
    let object = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/elf/net/pipeline.o"
    );
    let file = std::env::temp_dir().join(format!("ring3-bench-{}.pcap", std::process::id()));
    write_capture(&file, 1, PACKETS)?;
    let frames = read_capture(&file);
    std::fs::remove_file(&file)?;
    let frames = frames?;
    let engines = [
        ("through the pipeline, JIT", EngineKind::Jit),
        ("through the pipeline, interpreter", EngineKind::Interp),
    ];
    let mut pipelines = Vec::new();
    for (name, engine) in engines {
        let mut pipeline = Pipeline::new(object.as_ref(), engine)?;
        pipeline.run(&frames)?;
        pipelines.push((name, pipeline));
    }
    let mut report = Report::default();
    let captures: Vec<Vec<u8>> = pipelines
        .iter()
        .map(|(_, pipeline)| pipeline.capture())
        .collect::<Result<_, _>>()?;
    if captures[0] != captures[1] {
        return Err("the engines sent different captures".into());
    }
    report.note(format!(
        "{PACKETS} packets in, {} bytes of pcap out, the same of both engines",
        captures[0].len()
    ));
    for (name, pipeline) in &mut pipelines {
        let best = best_of_chunks(pipeline, &frames)?;
        report.note(format!(
            "{name}: {:.2} million packets a second",
            1000.0 / best
        ));
        report.rows.push(Row {
            name: (*name).to_owned(),
            ours_ns: best,
            reference: "1 Mpps".to_owned(),
            reference_ns: GOAL_NS,
            per: "packet",
        });
    }
    Ok(report)
}

/// Nanoseconds per packet of the whole capture: each chunk's minimum over the rounds, summed. Every round sends the capture in order, so caches are as
/// in one run of it; a chunk is shorter than the time slice of another process.
fn best_of_chunks(pipeline: &mut Pipeline, frames: &[Vec<u8>]) -> Outcome<f64> {
    let mut best = vec![f64::INFINITY; frames.len().div_ceil(CHUNK)];
    for _ in 0..ROUNDS {
        pipeline.clear_sent();
        for (best, chunk) in best.iter_mut().zip(frames.chunks(CHUNK)) {
            let begin = Instant::now();
            pipeline.run(chunk)?;
            *best = best.min(begin.elapsed().as_nanos() as f64);
        }
    }
    Ok(best.iter().sum::<f64>() / frames.len() as f64)
}
