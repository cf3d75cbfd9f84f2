//! What goes over the daemon's socket: lines of text, and a listener's descriptor beside one of them.

use std::{
    io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::Dirs;

/// Longest line that is accepted: a packet of 64 KiB in hex digits.
const LINE_BYTES_MAX: usize = 1 << 18;

/// Requests.
pub(crate) const RUN: &str = "run";
pub(crate) const LISTEN: &str = "listen";
pub(crate) const MONITOR: &str = "monitor";
pub(crate) const STATUS: &str = "status";
pub(crate) const STOP: &str = "stop";
pub(crate) const CONSOLE: &str = "console";
/// Answers begin with one of these.
pub(crate) const OK: &str = "ok";
pub(crate) const ERROR: &str = "error";

/// Sends a line, with a descriptor or without.
pub(crate) fn send(stream: &UnixStream, line: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let text = format!("{line}\n");
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let parts = [IoSlice::new(text.as_bytes())];
    let sent = sendmsg(stream.as_fd(), &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
    if sent < text.len() {
        (&*stream).write_all(&text.as_bytes()[sent..])?;
    }
    Ok(())
}

/// Receives one line; the other side sends the next only after an answer. `None` at the end.
pub(crate) fn receive(stream: &UnixStream) -> io::Result<Option<(String, Option<OwnedFd>)>> {
    let mut line = Vec::new();
    let mut fd = None;
    while !line.ends_with(b"\n") {
        if line.len() >= LINE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a line is too long",
            ));
        }
        let mut part = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut part)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(stream.as_fd(), &mut parts, &mut ancillary, flags)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.last().or(fd);
            }
        }
        if got.bytes == 0 {
            return Ok(None);
        }
        line.extend_from_slice(&part[..got.bytes]);
    }
    line.pop();
    let line = String::from_utf8(line)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a line is no text"))?;
    Ok(Some((line, fd)))
}

/// Sends a line and returns what follows the `ok` of the answer.
pub(crate) fn ask(
    stream: &UnixStream,
    line: &str,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<String> {
    send(stream, line, fd)?;
    let (answer, _) = receive(stream)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon hung up"))?;
    match answer.strip_prefix(OK) {
        Some(rest) => Ok(rest.trim_start().to_owned()),
        None => {
            let text = answer.strip_prefix(ERROR).unwrap_or(&answer);
            Err(io::Error::other(text.trim_start().to_owned()))
        }
    }
}

fn connect(dirs: &Dirs) -> io::Result<UnixStream> {
    let socket = dirs.socket();
    UnixStream::connect(&socket)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", socket.display())))
}

/// Writes each audit event of a daemon as a line, until the daemon or the reader ends.
///
/// # Errors
/// No daemon runs; `out` cannot be written.
pub fn monitor(dirs: &Dirs, out: &mut dyn Write) -> io::Result<()> {
    let stream = connect(dirs)?;
    ask(&stream, MONITOR, None)?;
    for line in BufReader::new(stream).lines() {
        writeln!(out, "{}", line?)?;
        out.flush()?;
    }
    Ok(())
}

/// What a daemon says of itself, in one line.
///
/// # Errors
/// No daemon runs.
pub fn status(dirs: &Dirs) -> io::Result<String> {
    ask(&connect(dirs)?, STATUS, None)
}

/// Ends a daemon, and with it every object.
///
/// # Errors
/// No daemon runs.
pub fn stop(dirs: &Dirs) -> io::Result<()> {
    ask(&connect(dirs)?, STOP, None).map(drop)
}
