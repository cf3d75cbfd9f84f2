//! What a grace period promises, with real threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use super::*;

#[test]
fn sections_nest_and_keep_their_cpu() {
    let outer = read();
    let depth = thread().depth();
    let cpu = outer.cpu();
    {
        let inner = read();
        assert_eq!(thread().depth(), depth + 1);
        assert_eq!(inner.cpu(), cpu);
    }
    assert_eq!(thread().depth(), depth);
    assert_eq!(synchronize(), Err(InReadSection));
    assert_eq!(barrier(), Err(InReadSection));
    drop(outer);
    assert_eq!(synchronize(), Ok(()));
}

#[test]
fn a_grace_period_waits_for_a_running_section() {
    let entered = Arc::new(AtomicBool::new(false));
    let leave = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (entered, leave) = (entered.clone(), leave.clone());
        move || {
            let _guard = read();
            entered.store(true, Ordering::SeqCst);
            while !leave.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
    });
    while !entered.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    let cookie = start_poll();
    assert!(!poll(cookie));
    leave.store(true, Ordering::SeqCst);
    synchronize().unwrap();
    assert!(poll(cookie));
    reader.join().unwrap();
}

#[test]
fn readers_never_see_freed_memory() {
    const ROUNDS: usize = 2000;
    let shared: Arc<AtomicPtr<usize>> = Arc::new(AtomicPtr::new(Box::into_raw(Box::new(7))));
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (shared, stop) = (shared.clone(), stop.clone());
        move || {
            let mut seen = 0usize;
            while !stop.load(Ordering::Relaxed) || seen == 0 {
                let _guard = read();
                // SAFETY: 1. the value is freed a grace period after it was unlinked.
                let value = unsafe { shared.load(Ordering::Acquire).read_volatile() };
                assert_eq!(value, 7);
                seen += 1;
            }
        }
    });
    for round in 0..ROUNDS {
        let old = shared.swap(Box::into_raw(Box::new(7)), Ordering::AcqRel) as usize;
        let free = move || {
            // SAFETY: 1. unlinked above, and a grace period has passed.
            let mut old = unsafe { Box::from_raw(old as *mut usize) };
            *old = 0;
        };
        if round % 100 == 0 {
            synchronize().unwrap();
            free();
        } else {
            call_rcu(free);
        }
    }
    barrier().unwrap();
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    // SAFETY: 1. the reader is gone.
    drop(unsafe { Box::from_raw(shared.load(Ordering::Relaxed)) });
}

#[test]
fn deferred_calls_run_once_each_and_survive_a_panic() {
    let ran = Arc::new(AtomicUsize::new(0));
    for index in 0..3 * BACKLOG_MAX {
        let ran = ran.clone();
        call_rcu(move || {
            ran.fetch_add(1, Ordering::Relaxed);
            assert!(index != 5, "a destructor that panics");
        });
    }
    barrier().unwrap();
    assert_eq!(ran.load(Ordering::Relaxed), 3 * BACKLOG_MAX);
}

/// A later batch that is done says nothing of an earlier one in another thread's hands.
#[test]
fn barriers_wait_for_earlier_batches_of_other_threads() {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for _ in 0..20 {
                    let ran = Arc::new(AtomicUsize::new(0));
                    let done = ran.clone();
                    call_rcu(move || {
                        if thread == 0 {
                            std::thread::sleep(Duration::from_millis(10));
                        }
                        done.fetch_add(1, Ordering::Relaxed);
                    });
                    for _ in 0..10 {
                        call_rcu(|| ());
                    }
                    barrier().unwrap();
                    assert_eq!(ran.load(Ordering::Relaxed), 1);
                }
            });
        }
    });
}

#[test]
fn ended_threads_leave_their_cell_to_the_next() {
    let mut slots = Vec::new();
    for _ in 0..20 {
        slots.push(std::thread::spawn(|| thread().slot()).join().unwrap());
    }
    slots.sort_unstable();
    slots.dedup();
    // Other tests of this process run threads too, so a few different slots may show.
    assert!(slots.len() < 20, "{slots:?}");
}

#[test]
fn a_leaked_guard_ends_with_its_thread() {
    std::thread::spawn(|| std::mem::forget(read()))
        .join()
        .unwrap();
    assert_eq!(synchronize(), Ok(()));
}
