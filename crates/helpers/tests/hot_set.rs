//! The helpers that programs call most allocate nothing and wait for nobody.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use ring3_helpers::{PerfSink, find};
use ring3_maps::{Map, MapAttr, MapType, PerfEventArray};
use ring3_sync::rcu;
use ring3_uapi::FuncId;

/// Counts what its thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: 1. everything is the system allocator's; 2. counting touches a thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of each helper that are looked at.
const CALLS: u64 = 1000;

fn call(id: FuncId, args: [u64; 5]) -> u64 {
    let code = find(id).unwrap();
    let [a, b, c, d, e] = args;
    let _section = rcu::read();
    // SAFETY: the callers below give what the prototypes ask for.
    unsafe { code(a, b, c, d, e) }
}

fn address<T>(of: &T) -> u64 {
    std::ptr::from_ref(of).expose_provenance() as u64
}

/// Slots of all CPUs with one sink.
fn events(sink: PerfSink) -> Arc<Map> {
    let map = Map::create(&MapAttr::new(MapType::PerfEventArray, 4, 4, 256)).unwrap();
    let sink: Arc<PerfSink> = Arc::new(sink);
    let array = map.downcast::<PerfEventArray>().unwrap();
    for slot in 0..256 {
        array.set(slot, Arc::clone(&sink) as _).unwrap();
    }
    map
}

/// `BPF_F_CURRENT_CPU`
const CURRENT_CPU: u64 = 0xffff_ffff;

#[test]
fn the_hot_set_allocates_nothing() {
    let map = |map_type, key, value, entries| {
        Map::create(&MapAttr::new(map_type, key, value, entries)).unwrap()
    };
    let array = map(MapType::Array, 4, 8, 8);
    let hash = map(MapType::Hash, 4, 8, 64);
    let ring = map(MapType::Ringbuf, 0, 0, 1 << 20);
    let events = events(PerfSink::new(
        None,
        Box::new(|record| assert_eq!(record.data.len(), 64)),
    ));
    let (key, value, data) = (3u32, 7u64, [1u8; 64]);
    let [key, value, data] = [address(&key), address(&value), address(&data)];
    let counted = |name: &str, body: &dyn Fn()| {
        // The first call may set up the thread.
        body();
        let before = ALLOCATIONS.get();
        for _ in 0..CALLS {
            body();
        }
        assert_eq!(ALLOCATIONS.get() - before, 0, "{name}");
    };
    for map in [&array, &hash] {
        let map = map.program_ptr();
        counted("update", &|| {
            assert_eq!(call(FuncId::MapUpdateElem, [map, key, value, 0, 0]), 0);
        });
        counted("lookup", &|| {
            assert_ne!(call(FuncId::MapLookupElem, [map, key, 0, 0, 0]), 0);
        });
    }
    for id in [
        FuncId::KtimeGetNs,
        FuncId::GetCurrentPidTgid,
        FuncId::GetSmpProcessorId,
        FuncId::GetPrandomU32,
    ] {
        counted(id.name(), &|| {
            call(id, [0; 5]);
        });
    }
    counted("reserve and submit", &|| {
        let record = call(FuncId::RingbufReserve, [ring.program_ptr(), 8, 0, 0, 0]);
        assert_ne!(record, 0);
        call(FuncId::RingbufSubmit, [record, 0, 0, 0, 0]);
    });
    counted("perf_event_output", &|| {
        let args = [0, events.program_ptr(), CURRENT_CPU, data, 64];
        assert_eq!(call(FuncId::PerfEventOutput, args), 0);
    });
}

/// A thread that is held up inside of a helper holds nobody else up.
#[test]
fn a_thread_inside_of_a_helper_holds_no_lock() {
    let ring = Map::create(&MapAttr::new(MapType::Ringbuf, 0, 0, 4096)).unwrap();
    let open = call(FuncId::RingbufReserve, [ring.program_ptr(), 8, 0, 0, 0]);
    let (entered, wait_entered) = channel();
    let (leave, wait_leave) = channel::<()>();
    let (entered, wait_leave) = (Mutex::new(Some(entered)), Mutex::new(wait_leave));
    let events = events(PerfSink::new(
        None,
        Box::new(move |_| {
            // The first record's delivery waits; the others find it gone.
            let first = entered.lock().unwrap().take();
            if let Some(first) = first {
                first.send(()).unwrap();
                wait_leave.lock().unwrap().recv().unwrap();
            }
        }),
    ));
    let data = [1u8; 64];
    let args = [0, events.program_ptr(), CURRENT_CPU, address(&data), 64];
    std::thread::scope(|scope| {
        scope.spawn(move || assert_eq!(call(FuncId::PerfEventOutput, args), 0));
        wait_entered.recv().unwrap();
        assert_eq!(call(FuncId::PerfEventOutput, args), 0);
        leave.send(()).unwrap();
        // A record is open all the while.
        let other = scope.spawn(|| {
            let record = call(FuncId::RingbufReserve, [ring.program_ptr(), 8, 0, 0, 0]);
            assert_ne!(record, 0);
            call(FuncId::RingbufSubmit, [record, 0, 0, 0, 0]);
        });
        other.join().unwrap();
    });
    call(FuncId::RingbufDiscard, [open, 0, 0, 0, 0]);
}
