//! Interleaved minima: what stands in one row is measured in one run, in turns, so that a change of clock or load meets all of it alike.
//!
//! criterion measures one function after the other and keeps its figures to itself; a row here is a ratio of two, one of which may be
//! measured by the kernel. The minimum over rounds is what the code costs when nothing disturbs it.

use std::{
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

/// One thing that is measured: a sample is nanoseconds per operation.
pub(crate) struct Contender<'a> {
    /// What it is called in the table.
    pub(crate) name: String,
    sample: Box<dyn FnMut() -> f64 + 'a>,
}

/// Wall time of a sample, so that many fit between two ticks of the scheduler.
const SAMPLE_NS: f64 = 200_000.0;
const CALLS_MAX: f64 = 100_000.0;

impl<'a> Contender<'a> {
    /// A function that is called in batches; one call is `ops` operations.
    pub(crate) fn calls<T>(
        name: impl Into<String>,
        ops: usize,
        mut call: impl FnMut() -> T + 'a,
    ) -> Self {
        let mut batch = move |calls: u32| {
            let begin = Instant::now();
            for _ in 0..calls {
                black_box(call());
            }
            begin.elapsed().as_nanos() as f64 / f64::from(calls)
        };
        let calls = (SAMPLE_NS / batch(3).max(1.0)).clamp(1.0, CALLS_MAX) as u32;
        Contender::sampled(name, move || batch(calls) / ops as f64)
    }

    /// A function that measures itself.
    pub(crate) fn sampled(name: impl Into<String>, sample: impl FnMut() -> f64 + 'a) -> Self {
        Contender {
            name: name.into(),
            sample: Box::new(sample),
        }
    }
}

/// The minimum of each contender over `rounds` rounds, in order.
pub(crate) fn minima(rounds: usize, contenders: &mut [Contender<'_>]) -> Vec<f64> {
    let mut best = vec![f64::INFINITY; contenders.len()];
    for _ in 0..rounds {
        for (best, contender) in best.iter_mut().zip(contenders.iter_mut()) {
            *best = best.min((contender.sample)());
        }
    }
    best
}

/// Wall nanoseconds of `threads` threads that run what `body` makes for each, from the moment when all are ready.
pub(crate) fn together<F: FnMut()>(threads: usize, body: impl Fn(usize) -> F + Sync) -> f64 {
    let waiting = AtomicUsize::new(threads);
    let (waiting, body) = (&waiting, &body);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut work = body(thread);
                    // Spinning, not sleeping: waking a thread takes as long as a sample.
                    waiting.fetch_sub(1, Ordering::AcqRel);
                    while waiting.load(Ordering::Acquire) != 0 {
                        std::hint::spin_loop();
                    }
                    let begin = Instant::now();
                    work();
                    (begin, Instant::now())
                })
            })
            .collect();
        let times: Vec<_> = running
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .collect();
        let begin = times.iter().map(|(begin, _)| *begin).min();
        let end = times.iter().map(|(_, end)| *end).max();
        match (begin, end) {
            (Some(begin), Some(end)) if times.len() == threads => (end - begin).as_nanos() as f64,
            _ => f64::INFINITY,
        }
    })
}
