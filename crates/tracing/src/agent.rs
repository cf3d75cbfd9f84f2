//! The agent: a thread of a program that lets others of its user trace it. What `ring3 trace` talks to.
//!
//! [`Agent::start`] listens at a Unix socket. A client ([`Client`]) sends an object file; the agent loads it into the system of its [`Tracing`], attaches its
//! programs on functions and raw tracepoints, and sends what they write to ring buffers, until the client goes: then everything is detached. Functions that
//! the program's host has not offered are looked for in its executable (`-fpatchable-function-entry=5`); of those nobody knows a prototype, so their
//! arguments are numbers.
//!
//! ```text
//! message:  kind (one byte)  length (four bytes, little-endian)  that many bytes
//! client:   'O' an object file
//! agent:    'A' a program was attached, as text    'G' all were    'E' what went wrong, as text
//!           'R' a record: the name of its map, a zero byte, its bytes
//! ```

mod client;
mod server;

use std::{
    io::{self, Read, Write},
    path::PathBuf,
};

pub use client::{Client, Event};
pub use server::Agent;

/// Longest message: an object file.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

const OBJECT: u8 = b'O';
const ATTACHED: u8 = b'A';
const GOING: u8 = b'G';
const ERROR: u8 = b'E';
const RECORD: u8 = b'R';

/// Where the agent of a process listens unless told otherwise: in the user's runtime directory, else in that of temporary files.
pub fn default_path(pid: u32) -> PathBuf {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    folder.join(format!("ring3-trace-{pid}.sock"))
}

fn send(to: &mut impl Write, kind: u8, parts: &[&[u8]]) -> io::Result<()> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let Some(wire_len) = u32::try_from(len).ok().filter(|_| len <= MESSAGE_BYTES_MAX) else {
        let what = format!("a message of {len} bytes, at most {MESSAGE_BYTES_MAX}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    };
    // In one piece: each write wakes the other side.
    let mut message = Vec::with_capacity(len + 5);
    message.push(kind);
    message.extend_from_slice(&wire_len.to_le_bytes());
    parts
        .iter()
        .for_each(|part| message.extend_from_slice(part));
    to.write_all(&message)
}

/// The next message; `None` where the other side is gone.
fn receive(from: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut head = [0; 5];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if len > MESSAGE_BYTES_MAX {
        let what = format!("a message of {len} bytes, at most {MESSAGE_BYTES_MAX}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    // As much as arrives: the length is the other side's word.
    let mut body = Vec::new();
    from.take(len as u64).read_to_end(&mut body)?;
    Ok((body.len() == len).then_some((head[0], body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_whole_or_not_at_all() {
        let mut wire = Vec::new();
        send(&mut wire, RECORD, &[b"events", b"\0", b"ab"]).unwrap();
        let expected = (RECORD, b"events\0ab".to_vec());
        assert_eq!(receive(&mut &wire[..]).unwrap(), Some(expected));
        for len in 0..wire.len() {
            assert_eq!(receive(&mut &wire[..len]).unwrap(), None, "{len}");
        }
        let long = [RECORD, 0xff, 0xff, 0xff, 0xff];
        assert!(receive(&mut &long[..]).is_err());
    }
}
