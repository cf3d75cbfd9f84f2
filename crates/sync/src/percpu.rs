//! Per-CPU cells: one value a possible CPU, each on its own cache lines.

use std::fmt;

use ring3_os::cpu;

/// The CPU that this thread is accounted to: fixed inside a read section (every program run is one), else the real one.
#[inline]
pub fn current_cpu() -> usize {
    let cell = crate::rcu::thread();
    if cell.depth() != 0 {
        crate::rcu::section_cpu() as usize
    } else {
        cpu::current_cpu()
    }
}

/// Keeps neighbours off each other's cache line (and off the prefetcher's pair).
#[derive(Debug)]
#[repr(align(128))]
struct Line<T>(T);

/// One `T` for every possible CPU.
pub struct PerCpu<T> {
    lines: Box<[Line<T>]>,
}

impl<T> PerCpu<T> {
    /// Fills every CPU's cell with what `make` returns for it.
    pub fn new_with(make: impl FnMut(usize) -> T) -> Self {
        PerCpu {
            lines: (0..cpu::possible_cpus()).map(make).map(Line).collect(),
        }
    }

    /// The cell of a CPU; `None` beyond the possible ones.
    #[inline]
    pub fn get(&self, cpu: usize) -> Option<&T> {
        self.lines.get(cpu).map(|line| &line.0)
    }

    /// The cell of the CPU that this thread is accounted to. Another thread may use it at the same time.
    #[inline]
    pub fn this_cpu(&self) -> &T {
        // The list of possible CPUs is fixed at boot; a wrong number would still find a cell.
        &self.lines[current_cpu() % self.lines.len()].0
    }

    /// Every cell, by CPU.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.lines.iter().map(|line| &line.0)
    }
}

impl<T: Default> Default for PerCpu<T> {
    fn default() -> Self {
        PerCpu::new_with(|_| T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for PerCpu<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn cells_are_apart_and_all_possible_cpus_have_one() {
        let cells = PerCpu::<AtomicUsize>::default();
        assert_eq!(cells.iter().count(), cpu::possible_cpus());
        cells.this_cpu().fetch_add(1, Ordering::Relaxed);
        assert_eq!(
            cells
                .iter()
                .map(|cell| cell.load(Ordering::Relaxed))
                .sum::<usize>(),
            1
        );
        assert!(cells.get(cpu::possible_cpus()).is_none());
    }

    #[test]
    fn the_cpu_does_not_change_inside_a_section() {
        let guard = crate::rcu::read();
        let cpu = guard.cpu();
        std::thread::yield_now();
        assert_eq!(current_cpu(), cpu);
    }
}
