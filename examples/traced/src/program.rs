//! What the program does: calls its function a thousand times a second, until standard input ends.

use std::{
    error::Error,
    io::{Read, stdin},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ring3::{
    tracing::{Tracing, agent::Agent},
    trampoline::{Certainty, HostFunction, Site, traceable},
};

traceable! {
    /// What is traced.
    fn handle_request(id: u64, bytes: u32) -> u64 {
        id * 1000 + u64::from(bytes)
    }
}

/// Offers the function, listens at `path`, and calls until standard input ends.
pub(crate) fn run(path: PathBuf) -> Result<(), Box<dyn Error>> {
    let tracing = Arc::new(Tracing::new(&ring3::system()));
    // SAFETY: the function was declared by `traceable`, and this is its prototype.
    let function = unsafe {
        let site = Site::of_stub(handle_request as *const ())?;
        HostFunction::new(
            site,
            "u64 handle_request(u64 id, u32 bytes)",
            Certainty::Certain,
        )?
    };
    tracing.offer([function])?;
    let _agent = Agent::start(&tracing, &path)?;
    println!("listening");
    let is_over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&is_over);
    std::thread::spawn(move || {
        // Nothing is read but the end.
        let _ = stdin().read_to_end(&mut Vec::new());
        ends.store(true, Ordering::Relaxed);
    });
    let mut id = 0;
    while !is_over.load(Ordering::Relaxed) {
        id += 1;
        let bytes = 64 + id % 8;
        if handle_request(id, bytes as u32) != id * 1000 + bytes {
            return Err("the function does something else".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("done");
    Ok(())
}
