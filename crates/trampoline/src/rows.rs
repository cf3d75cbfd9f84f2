//! Which program has which row of per-thread words: one for all targets, so that a program is protected against itself everywhere.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use ring3_runtime::{ProgObject, ProgRef};

use crate::thread;

struct Row {
    id: u32,
    /// Slots that use it. They hold the program, so that no other one has its address.
    users: usize,
}

/// Rows by [`key`].
#[derive(Default)]
pub(crate) struct Rows(HashMap<usize, Row>);

/// What tells programs apart. Ids do not: each system of a process has its own.
fn key(prog: &dyn ProgObject) -> usize {
    std::ptr::from_ref(prog).addr()
}

pub(crate) fn rows() -> MutexGuard<'static, Rows> {
    static ROWS: OnceLock<Mutex<Rows>> = OnceLock::new();
    ROWS.get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

impl Rows {
    /// The row of a program, for one slot more; `None`: there are none left.
    pub(crate) fn acquire(&mut self, prog: &ProgRef) -> Option<u32> {
        if let Some(row) = self.0.get_mut(&key(&**prog)) {
            row.users += 1;
            return Some(row.id);
        }
        let id = thread::allocate_id()?;
        self.0.insert(key(&**prog), Row { id, users: 1 });
        Some(id)
    }

    /// A slot less; nobody runs it any more.
    pub(crate) fn release(&mut self, prog: &dyn ProgObject) {
        let Some(row) = self.0.get_mut(&key(prog)) else {
            return;
        };
        row.users -= 1;
        if row.users == 0 {
            thread::free_id(row.id);
            self.0.remove(&key(prog));
        }
    }
}
