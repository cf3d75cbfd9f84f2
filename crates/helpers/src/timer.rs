//! Timers in map values: arming, cancelling, and the thread that calls back. Key type: [`Timer`].
//!
//! The first word of a `struct bpf_timer` holds the address of a [`Timer`], 0 before `bpf_timer_init`. Callbacks run one after the other on one thread of
//! the process, each in a read section of its own; due timers wait in one ordered queue, from which cancelling takes them out, so that the queue
//! is never longer than there are armed timers.
//!
//! A timer whose map has users (descriptors or pins) holds the program of its callback, which holds the map: with the last user all timers of the map
//! end ([`ring3_maps::Map::user_ref_put`]), as they do when their value is deleted, or by cancelling.
//!
//! Neighbour: `ring3_maps::fields`, whose hooks (`kfunc::fields`) call [`release`] when a value with a timer goes.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::ThreadId;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use ring3_maps::fields::FieldKind;
use ring3_maps::{Map, Users};
use ring3_os::time;
use ring3_runtime::CallbackRef;
use ring3_sync::rcu;
use ring3_uapi::Errno;

use crate::bind::implement;

/// `BPF_F_TIMER_ABS`: the time is of the clock, not from now.
const ABSOLUTE: u64 = 1;
/// `BPF_F_TIMER_CPU_PIN`: accepted; there is one thread for all CPUs.
const CPU_PIN: u64 = 2;

/// The clocks of `bpf_timer_init`. Source: CLOCK_* of time.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    Realtime,
    Monotonic,
    Boottime,
}

impl Clock {
    fn from_flags(flags: u64) -> Option<Clock> {
        match flags {
            0 => Some(Clock::Realtime),
            1 => Some(Clock::Monotonic),
            7 => Some(Clock::Boottime),
            _ => None,
        }
    }

    /// Nanoseconds of the monotonic clock at which this clock will show `at`, as things stand.
    fn to_monotonic(self, at: u64) -> u64 {
        let now = match self {
            Clock::Monotonic => return at,
            Clock::Realtime => time::realtime_ns(),
            Clock::Boottime => time::boot_ns(),
        };
        time::monotonic_ns().saturating_add(at.saturating_sub(now))
    }
}

type Program = dyn Any + Send + Sync;

/// The program of a callback.
#[derive(Clone)]
enum Owner {
    /// It stays loaded for the timer, as long as the map has users (descriptors, pins).
    Held(Arc<Program>),
    /// The map counts no users: its host's handles keep what they keep, and the timer ends with the program.
    Known(Weak<Program>),
}

impl Owner {
    fn get(&self) -> Option<Arc<Program>> {
        match self {
            Owner::Held(program) => Some(Arc::clone(program)),
            Owner::Known(program) => program.upgrade(),
        }
    }
}

/// What a timer calls: the function, and the program it belongs to.
#[derive(Clone)]
struct Callback {
    code: CallbackRef,
    owner: Owner,
}

/// Lets go of a callback. The program may be the last to hold the map whose locks we are under.
fn let_go(callback: Option<Callback>) {
    if let Some(Callback {
        owner: Owner::Held(program),
        ..
    }) = callback
    {
        rcu::drop_rcu(program);
    }
}

#[derive(Default)]
struct State {
    callback: Option<Callback>,
    /// Its key in the queue while it is armed.
    queued: Option<(u64, u64)>,
    /// The thread that is calling back.
    running: Option<ThreadId>,
    /// The value is gone.
    is_released: bool,
}

/// One `struct bpf_timer` after `bpf_timer_init`.
struct Timer {
    clock: Clock,
    /// Program pointer of the map that holds the value.
    map: u64,
    /// The value, as programs address it.
    value: u64,
    state: Mutex<State>,
    /// Callers of cancel wait here for a callback to return.
    returned: Condvar,
}

/// Armed timers by time, and the thread that waits for the first.
#[derive(Default)]
struct Service {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    due: BTreeMap<(u64, u64), Arc<Timer>>,
    /// Makes keys of equal times differ.
    next: u64,
}

fn service() -> &'static Service {
    static SERVICE: OnceLock<&'static Service> = OnceLock::new();
    SERVICE.get_or_init(|| {
        let service: &'static Service = Box::leak(Box::default());
        let thread = std::thread::Builder::new().name("ring3-timers".to_owned());
        // Without a thread timers stay armed and never fire.
        let _ = thread.spawn(move || service.serve());
        service
    })
}

impl Service {
    fn serve(&self) {
        loop {
            let timer = {
                let mut queue = self.queue.lock();
                loop {
                    let now = time::monotonic_ns();
                    match queue.due.first_key_value().map(|(key, _)| *key) {
                        None => self.changed.wait(&mut queue),
                        Some((at, _)) if at > now => {
                            let wait = Duration::from_nanos(at - now);
                            let _ = self.changed.wait_for(&mut queue, wait);
                        }
                        Some(_) => break,
                    }
                }
                queue.due.pop_first()
            };
            if let Some((key, timer)) = timer {
                timer.fire(key);
            }
        }
    }

    /// Puts a timer at its time; its key.
    fn arm(&self, at: u64, timer: &Arc<Timer>) -> (u64, u64) {
        let mut queue = self.queue.lock();
        queue.next += 1;
        let key = (at, queue.next);
        queue.due.insert(key, Arc::clone(timer));
        if queue
            .due
            .first_key_value()
            .is_some_and(|(first, _)| *first == key)
        {
            self.changed.notify_one();
        }
        key
    }

    /// Takes a timer out; false: it is firing.
    fn disarm(&self, key: (u64, u64)) -> bool {
        self.queue.lock().due.remove(&key).is_some()
    }
}

impl Timer {
    /// Calls back, unless the timer was cancelled since it was taken from the queue.
    fn fire(&self, key: (u64, u64)) {
        let callback = {
            let mut state = self.state.lock();
            if state.queued != Some(key) {
                return;
            }
            state.queued = None;
            let callback = state.callback.clone();
            if callback.is_some() {
                state.running = Some(std::thread::current().id());
            }
            callback
        };
        let Some(callback) = callback else { return };
        if let Some(_program) = callback.owner.get() {
            let _section = rcu::read();
            // The value may have gone before the section began; after that check it stays for the section.
            if !self.state.lock().is_released {
                let mut index = 0;
                // SAFETY: 1. the program is held, and holds its maps, this one among them.
                let map = unsafe { Map::from_program_ptr(self.map) };
                let value = std::ptr::with_exposed_provenance(self.value as usize);
                let key = map.key_of_value(value, &mut index).expose_provenance() as u64;
                // SAFETY: 1. the program is held; 2. the verifier walked the callback with (map, key, value); 3. a read section is active,
                // which keeps the value.
                unsafe { callback.code.call([self.map, key, self.value, 0, 0]) };
            }
        }
        self.state.lock().running = None;
        self.returned.notify_all();
    }

    /// Ends an armed or running timer; whether it was armed. A callback is never cancelled while it runs: callers wait for its return.
    ///
    /// # Errors
    /// EDEADLK: the caller is the callback.
    fn cancel(&self) -> Result<bool, Errno> {
        let mut state = self.state.lock();
        if state.running == Some(std::thread::current().id()) {
            return Err(Errno::EDEADLK);
        }
        let was_armed = state.queued.take().is_some_and(|key| {
            service().disarm(key);
            true
        });
        let_go(state.callback.take());
        while state.running.is_some() {
            self.returned.wait(&mut state);
        }
        Ok(was_armed)
    }

    /// The value goes: no callback begins from here on.
    fn release(&self) {
        let mut state = self.state.lock();
        state.is_released = true;
        let_go(state.callback.take());
        if let Some(key) = state.queued.take() {
            service().disarm(key);
        }
    }
}

/// The word of a `struct bpf_timer`.
///
/// # Safety
/// `timer` is the timer of a live value.
unsafe fn word<'a>(timer: *mut u64) -> &'a AtomicPtr<Timer> {
    // SAFETY: 1. the caller's promise; 2. BTF has timers 8-aligned; 3. all accesses to the word are atomic.
    unsafe { AtomicPtr::from_ptr(timer.cast()) }
}

/// The timer behind a field.
///
/// # Errors
/// EINVAL: not initialised.
///
/// # Safety
/// As [`word`], in a read section.
unsafe fn timer_of(timer: *mut u64) -> Result<Arc<Timer>, Errno> {
    // SAFETY: 1. the caller's promise.
    let address = unsafe { word(timer) }.load(Ordering::Acquire);
    if address.is_null() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: 1. the word owns a reference, which `Hooks` gives up only after a grace period; 2. the caller is in a read section.
    unsafe {
        Arc::increment_strong_count(address);
        Ok(Arc::from_raw(address))
    }
}

/// # Errors
/// EINVAL: the map has no such field. EBUSY: initialised before. EPERM: the map's last user is gone.
///
/// # Safety
/// As [`word`]: the field of this kind in a live value of the map.
unsafe fn init(timer: *mut u64, map: &Map, clock: Clock, kind: FieldKind) -> Result<(), Errno> {
    let field = map
        .value_record()
        .and_then(|record| record.find(kind).copied());
    let offset = field.ok_or(Errno::EINVAL)?.offset;
    if map.users() == Users::Gone {
        return Err(Errno::EPERM);
    }
    let fresh = Arc::new(Timer {
        clock,
        map: map.program_ptr(),
        value: timer.expose_provenance() as u64 - u64::from(offset),
        state: Mutex::default(),
        returned: Condvar::new(),
    });
    let fresh = Arc::into_raw(fresh).cast_mut();
    // SAFETY: 1. the caller's promise.
    let place = unsafe { word(timer) };
    let result = place.compare_exchange(
        std::ptr::null_mut(),
        fresh,
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    if result.is_err() {
        // SAFETY: 1. the reference that `into_raw` gave, which nobody else has seen.
        drop(unsafe { Arc::from_raw(fresh) });
        return Err(Errno::EBUSY);
    }
    Ok(())
}

/// Makes a work item of a `struct bpf_wq`.
///
/// # Errors
/// As [`init`].
///
/// # Safety
/// As [`init`].
pub(crate) unsafe fn init_work(work: *mut u64, map: &Map) -> Result<(), Errno> {
    // SAFETY: 1. the caller's promise.
    unsafe { init(work, map, Clock::Monotonic, FieldKind::Workqueue) }
}

/// Says what a timer or work item calls.
///
/// # Errors
/// EINVAL: not initialised, or its value is gone. EPERM: the map's last user is gone, or the program says not who owns it. ENOENT: the program is
/// being unloaded.
///
/// # Safety
/// As [`word`]; the callback is the running program's.
pub(crate) unsafe fn set_callback(timer: *mut u64, callback: CallbackRef) -> Result<(), Errno> {
    // SAFETY: 1. the caller's promise; 2. a program runs in a read section; 3. the program runs, so its record lives.
    let (timer, owner) = unsafe { (timer_of(timer)?, callback.owner()) };
    let owner = owner.ok_or(Errno::EPERM)?;
    let mut state = timer.state.lock();
    if state.is_released {
        return Err(Errno::EINVAL);
    }
    // SAFETY: 1. the running program holds the map of the value.
    let map = unsafe { Map::from_program_ptr(timer.map) };
    // Under the lock: who puts the last user reference comes to this timer after it, or has come to it before.
    let owner = match map.users() {
        Users::Counted => Owner::Held(owner.upgrade().ok_or(Errno::ENOENT)?),
        Users::Uncounted => Owner::Known(owner),
        Users::Gone => return Err(Errno::EPERM),
    };
    let before = state.callback.replace(Callback {
        code: callback,
        owner,
    });
    drop(state);
    let_go(before);
    Ok(())
}

/// Arms a timer for the time that `at` gives of it.
///
/// # Errors
/// EINVAL: not initialised, or without a callback.
///
/// # Safety
/// As [`word`].
unsafe fn start(timer: *mut u64, at: impl FnOnce(&Timer) -> u64) -> Result<(), Errno> {
    // SAFETY: 1. the caller's promise; 2. a program runs in a read section.
    let timer = unsafe { timer_of(timer)? };
    let mut state = timer.state.lock();
    if state.callback.is_none() || state.is_released {
        return Err(Errno::EINVAL);
    }
    if let Some(key) = state.queued.take() {
        service().disarm(key);
    }
    state.queued = Some(service().arm(at(&timer), &timer));
    Ok(())
}

/// Makes a work item due.
///
/// # Errors
/// As [`start`].
///
/// # Safety
/// As [`word`].
pub(crate) unsafe fn start_work(work: *mut u64) -> Result<(), Errno> {
    // SAFETY: 1. the caller's promise.
    unsafe { start(work, |_| time::monotonic_ns()) }
}

implement! { ROWS:
    TimerInit(timer: *mut u64, map: &Map, flags: u64) {
        Clock::from_flags(flags).ok_or(Errno::EINVAL).and_then(|clock| {
            // SAFETY: 1. ARG_PTR_TO_TIMER: the timer of a live value of the map.
            unsafe { init(timer, map, clock, FieldKind::Timer) }
        })
    }
    TimerSetCallback(timer: *mut u64, callback: CallbackRef) {
        // SAFETY: as above.
        unsafe { set_callback(timer, callback) }
    }
    TimerStart(timer: *mut u64, nsecs: u64, flags: u64) {
        if flags & !(ABSOLUTE | CPU_PIN) != 0 {
            Err(Errno::EINVAL)
        } else {
            let at = |timer: &Timer| {
                if flags & ABSOLUTE == 0 {
                    time::monotonic_ns().saturating_add(nsecs)
                } else {
                    timer.clock.to_monotonic(nsecs)
                }
            };
            // SAFETY: as above.
            unsafe { start(timer, at) }
        }
    }
    TimerCancel(timer: *mut u64) {
        // SAFETY: as above.
        unsafe { timer_of(timer) }.and_then(|timer| timer.cancel().map(u64::from))
    }
}

/// The value of a timer or work item goes.
///
/// # Safety
/// `field` is the address of the field.
pub(crate) unsafe fn release(field: *mut u8) {
    // SAFETY: 1. the caller's promise.
    let timer = unsafe { word(field.cast()) }.swap(std::ptr::null_mut(), Ordering::AcqRel);
    if timer.is_null() {
        return;
    }
    // SAFETY: 1. the reference that the word owned.
    let timer = unsafe { Arc::from_raw(timer) };
    timer.release();
    // A program that read the word before it was taken may still make a reference of its own.
    rcu::drop_rcu(timer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_maps::fields::{Field, FieldHooks, ValueRecord};
    use ring3_maps::{MapAttr, MapType};
    use ring3_runtime::Callback as Record;
    use std::sync::atomic::AtomicU64;

    struct Releases;

    impl FieldHooks for Releases {
        unsafe fn release(&self, _field: &Field, field_ptr: *mut u8) {
            // SAFETY: the caller's promise: the only field is a timer.
            unsafe { release(field_ptr) };
        }
    }

    fn map() -> Arc<Map> {
        let field = Field {
            kind: FieldKind::Timer,
            offset: 8,
            size: 16,
        };
        let mut attr = MapAttr::new(MapType::Array, 4, 24, 2);
        attr.record = Some(Arc::new(ValueRecord::new(
            vec![field],
            Some(Arc::new(Releases)),
        )));
        Map::create(&attr).unwrap()
    }

    /// The map's word before the timer counts.
    unsafe extern "C" fn count(
        _: u64,
        key: u64,
        value: u64,
        _: u64,
        _: u64,
        _: *const Record,
    ) -> u64 {
        // SAFETY: a live value of 24 bytes, and the key of an array.
        unsafe {
            assert_eq!(
                *std::ptr::with_exposed_provenance::<u32>(key as usize),
                1,
                "the element's key"
            );
            counter(value).fetch_add(1, Ordering::SeqCst);
        }
        0
    }

    unsafe fn counter<'a>(value: u64) -> &'a AtomicU64 {
        // SAFETY: the callers pass addresses of values.
        unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(value as usize)) }
    }

    /// The program that owns the callback, its record, the value and its timer.
    fn program(map: &Map) -> (Arc<u8>, Box<Record>, u64, *mut u64) {
        let owner = Arc::new(7u8);
        let record = Box::new(Record::new(count));
        let weak: Weak<Program> = Arc::downgrade(&(Arc::clone(&owner) as Arc<Program>));
        record.set_owner(&weak);
        let value = map.array_layout().unwrap().base + 24;
        let timer = std::ptr::with_exposed_provenance_mut(value as usize + 8);
        (owner, record, value, timer)
    }

    fn arm(map: &Map, record: &Record, timer: *mut u64, nsecs: u64) -> Result<(), Errno> {
        let reg = std::ptr::from_ref(record).expose_provenance() as u64;
        let callback = CallbackRef::from_reg(reg).unwrap();
        let _section = rcu::read();
        // SAFETY: the field of a live value; the record outlives the timers of the test.
        unsafe {
            init(timer, map, Clock::Monotonic, FieldKind::Timer)?;
            set_callback(timer, callback)?;
            start(timer, |_| time::monotonic_ns() + nsecs)
        }
    }

    fn wait_for(mut is_so: impl FnMut() -> bool) {
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(std::time::Instant::now() < end, "waited for too long");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_timer_keeps_its_program_until_the_last_user_of_the_map_goes() {
        let map = map();
        map.user_ref_get();
        let (owner, record, value, timer) = program(&map);
        assert_eq!(arm(&map, &record, timer, 20_000_000), Ok(()));
        let weak = Arc::downgrade(&owner);
        drop(owner);
        // SAFETY: a value of the map.
        wait_for(|| unsafe { counter(value) }.load(Ordering::SeqCst) == 1);
        assert!(weak.upgrade().is_some(), "held after it has fired, too");
        map.user_ref_put();
        rcu::barrier().unwrap();
        assert!(weak.upgrade().is_none());
        // No timer begins without a user.
        assert_eq!(arm(&map, &record, timer, 0), Err(Errno::EPERM));
        map.user_ref_get();
        let (owner, record, ..) = program(&map);
        assert_eq!(arm(&map, &record, timer, u64::from(u32::MAX)), Ok(()));
        let weak = Arc::downgrade(&owner);
        drop(owner);
        let section = rcu::read();
        // SAFETY: the field of a live value.
        let cancelled = unsafe { timer_of(timer) }.and_then(|timer| timer.cancel());
        drop(section);
        assert_eq!(cancelled, Ok(true));
        rcu::barrier().unwrap();
        assert!(weak.upgrade().is_none(), "a cancelled timer holds nothing");
        map.user_ref_put();
    }

    #[test]
    fn where_no_users_are_counted_a_timer_ends_with_its_program() {
        let map = map();
        let (owner, record, value, timer) = program(&map);
        assert_eq!(arm(&map, &record, timer, 20_000_000), Ok(()));
        let weak = Arc::downgrade(&owner);
        drop(owner);
        assert!(weak.upgrade().is_none());
        let state = || {
            let _section = rcu::read();
            // SAFETY: the field of a live value.
            let timer = unsafe { timer_of(timer) }.unwrap();
            timer.state.lock().queued
        };
        wait_for(|| state().is_none());
        // SAFETY: a value of the map.
        assert_eq!(unsafe { counter(value) }.load(Ordering::SeqCst), 0);
    }
}
