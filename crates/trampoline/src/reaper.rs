//! The reaper: a thread that releases what detaching has left behind, and all targets, which it and statistics go through.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use ring3_runtime::on_switch;
use ring3_sync::rcu;

use crate::target::Target;

const REAP_EVERY: Duration = Duration::from_millis(10);

/// Some target has something to release.
static ANY_DIRTY: AtomicBool = AtomicBool::new(false);

static HAS_THREAD: AtomicBool = AtomicBool::new(false);

/// All targets. Those that nobody else holds are dropped here, so that the end of an attachment never does.
fn targets() -> MutexGuard<'static, Vec<Arc<Target>>> {
    static TARGETS: Mutex<Vec<Arc<Target>>> = Mutex::new(Vec::new());
    TARGETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a target up, and starts the thread with the first one.
pub(crate) fn register(target: Arc<Target>) {
    targets().push(target);
    start();
}

/// Some target has something to release now.
pub(crate) fn wake() {
    ANY_DIRTY.store(true, Ordering::Release);
}

/// Generates the lists of all targets anew: other programs are to be timed.
fn regenerate_all() {
    let all: Vec<Arc<Target>> = targets().clone();
    for target in all {
        target.regenerate();
    }
}

/// A thread that looks at the targets a hundred times a second. A wakeup per detachment would cost more than the detachment.
fn start() {
    static START: Once = Once::new();
    START.call_once(|| {
        on_switch(regenerate_all);
        let thread = std::thread::Builder::new()
            .name("ring3-reaper".to_owned())
            .spawn(|| {
                loop {
                    std::thread::sleep(REAP_EVERY);
                    reap_all();
                }
            });
        HAS_THREAD.store(thread.is_ok(), Ordering::Relaxed);
    });
}

/// Releases in place of the thread, should the host have refused one. Not under a target's lock.
pub(crate) fn stand_in() {
    if !HAS_THREAD.load(Ordering::Relaxed) {
        reap_all();
    }
}

fn reap_all() {
    let (mut unused, mut dirty) = (Vec::new(), Vec::new());
    {
        let mut targets = targets();
        let mut at = 0;
        while at < targets.len() {
            if Arc::strong_count(&targets[at]) == 1 {
                unused.push(targets.swap_remove(at));
            } else {
                at += 1;
            }
        }
        if ANY_DIRTY.swap(false, Ordering::AcqRel) {
            dirty.extend(targets.iter().filter(|target| target.is_dirty()).cloned());
        }
    }
    let leftovers: Vec<_> = dirty
        .iter()
        .filter_map(|target| Some((target, target.take_leftovers()?)))
        .collect();
    if leftovers.is_empty() {
        return;
    }
    // One grace period for all of them; inside of a read section, which is part of that period, they stay for the next time.
    let is_over = rcu::synchronize().is_ok();
    for (target, left) in leftovers {
        if is_over {
            left.release();
        } else {
            target.give_back(left);
        }
    }
}
