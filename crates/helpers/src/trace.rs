//! `bpf_trace_printk`: formats a line and gives it to the trace sink.
//!
//! The format language is the kernel's: `%d %i %u %x %X %p %c %s %%` with `l`, `ll` and widths. Key types: [`TraceLine`], [`set_trace_sink`].

use std::{fmt::Write, sync::RwLock};

use ring3_isa::MemSize;
use ring3_runtime::{Task, current_task, extable};
use ring3_uapi::Errno;

use crate::bind::{bytes, implement};

/// One line of the trace pipe.
#[derive(Clone, Debug)]
pub struct TraceLine {
    /// Who was running.
    pub task: Task,
    /// CPU.
    pub cpu: u32,
    /// CLOCK_MONOTONIC in nanoseconds.
    pub time_ns: u64,
    /// Text, without the final newline.
    pub text: String,
}

/// As `/sys/kernel/tracing/trace_pipe` prints it.
impl std::fmt::Display for TraceLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let comm = String::from_utf8_lossy(&self.task.comm);
        let comm = comm.trim_end_matches('\0');
        let micros = self.time_ns / 1000;
        write!(
            f,
            "{comm:>16}-{:<7} [{:03}] ....1 {:>5}.{:06}: bpf_trace_printk: {}",
            self.task.pid,
            self.cpu,
            micros / 1_000_000,
            micros % 1_000_000,
            self.text
        )
    }
}

type Sink = Box<dyn Fn(&TraceLine) + Send + Sync>;

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

/// Where trace lines go from now on; without a sink they go nowhere.
pub fn set_trace_sink(sink: Option<Sink>) {
    *SINK
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner()) = sink;
}

/// Longest string that `%s` copies, in bytes.
const STRING_BYTES_MAX: u64 = 512;

/// A byte string up to its NUL; memory that is not mapped reads as its end.
fn string_at(address: u64) -> String {
    let bytes: Vec<u8> = (0..STRING_BYTES_MAX)
        .map(|offset| extable::probe_load(address.wrapping_add(offset), MemSize::B) as u8)
        .take_while(|&byte| byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Formats with at most three arguments.
///
/// # Errors
/// EINVAL: no terminating NUL, a character outside of ASCII, an unknown conversion, or more than three of them.
fn format(fmt: &[u8], args: [u64; 3]) -> Result<String, Errno> {
    let end = fmt
        .iter()
        .position(|&byte| byte == 0)
        .ok_or(Errno::EINVAL)?;
    let mut out = String::new();
    let mut chars = fmt[..end].iter().copied().peekable();
    let mut args = args.into_iter();
    while let Some(byte) = chars.next() {
        if !byte.is_ascii() || (byte.is_ascii_control() && !byte.is_ascii_whitespace()) {
            return Err(Errno::EINVAL);
        }
        if byte != b'%' {
            out.push(byte as char);
            continue;
        }
        if chars.next_if_eq(&b'%').is_some() {
            out.push('%');
            continue;
        }
        let zero_padded = chars.next_if_eq(&b'0').is_some();
        let mut width = 0usize;
        while let Some(digit) = chars.next_if(u8::is_ascii_digit) {
            width = (width * 10 + usize::from(digit - b'0')).min(256);
        }
        let mut longs = 0;
        while longs < 2 && chars.next_if_eq(&b'l').is_some() {
            longs += 1;
        }
        let conversion = chars.next().ok_or(Errno::EINVAL)?;
        let value = args.next().ok_or(Errno::EINVAL)?;
        let (unsigned, signed) = if longs > 0 {
            (value, value as i64)
        } else {
            (u64::from(value as u32), i64::from(value as i32))
        };
        let text = match conversion {
            b'd' | b'i' => signed.to_string(),
            b'u' => unsigned.to_string(),
            b'x' => format!("{unsigned:x}"),
            b'X' => format!("{unsigned:X}"),
            b'p' => format!("{value:016x}"),
            b'c' => char::from(value as u8).to_string(),
            b's' => string_at(value),
            _ => return Err(Errno::EINVAL),
        };
        // Writing to a String cannot fail.
        let _ = if zero_padded {
            write!(out, "{text:0>width$}")
        } else {
            write!(out, "{text:>width$}")
        };
    }
    Ok(out)
}

fn print(text: String) -> u64 {
    let len = text.len() as u64;
    let sink = SINK.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(sink) = sink.as_ref() {
        sink(&TraceLine {
            task: current_task(),
            cpu: ring3_sync::rcu::thread().section_cpu(),
            time_ns: ring3_os::time::monotonic_ns(),
            text: text.trim_end_matches('\n').to_owned(),
        });
    }
    len
}

implement! { ROWS:
    /// The prototype names two arguments; r3 to r5 are the values.
    TracePrintk[regs](fmt: *const u8, fmt_size: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        format(unsafe { bytes(fmt, fmt_size) }, [regs[2], regs[3], regs[4]]).map(print)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_are_the_kernels() {
        assert_eq!(
            format(b"len %d cpu %u\0", [-3i64 as u64, 7, 0]).unwrap(),
            "len -3 cpu 7"
        );
        assert_eq!(
            format(b"%llx %08x %%\0", [u64::MAX, 0xbeef, 0]).unwrap(),
            "ffffffffffffffff 0000beef %"
        );
        assert_eq!(format(b"%d %d %d %d\0", [0; 3]), Err(Errno::EINVAL));
        assert_eq!(format(b"%z\0", [0; 3]), Err(Errno::EINVAL));
        assert_eq!(format(b"no end", [0; 3]), Err(Errno::EINVAL));
    }

    #[test]
    fn lines_look_like_the_trace_pipe() {
        let line = TraceLine {
            task: Task {
                pid: 42,
                tgid: 42,
                uid: 0,
                gid: 0,
                comm: *b"ring3\0\0\0\0\0\0\0\0\0\0\0",
                cgroup_id: 1,
            },
            cpu: 1,
            time_ns: 12_345_678_000,
            text: "hello".into(),
        };
        assert_eq!(
            line.to_string(),
            "           ring3-42      [001] ....1    12.345678: bpf_trace_printk: hello"
        );
    }
}
