//! Sockets of rtnetlink: a client gets one end of a pair, a thread of the daemon answers at the other (`rtnetlink`). Only where the model has a device beside
//! `lo`; else clients talk with the host's kernel.

use std::{
    collections::HashMap,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread,
};

use parking_lot::Mutex;
use ring3_objects::Program;
use ring3_syscall_shim::{FileId, GuestMemory, Keep, OpenFile};
use ring3_uapi::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};

use crate::{
    guest::TaskMemory,
    host::TaskHost,
    pins::errno,
    rtnetlink::{self, Asker},
    session::{Answer, Session},
};

/// Bits of `type` of socket(2).
const SOCK_NONBLOCK: u64 = 0o4000;
/// Longest request. Source: more than any tool sends.
const REQUEST_BYTES_MAX: usize = 1 << 16;
/// `struct sockaddr_nl`
const ADDRESS_BYTES: usize = 12;
const AF_NETLINK: u16 = 16;

/// The sockets of a client that are answered here, with the number each is bound to.
#[derive(Default)]
pub(crate) struct Sockets(Mutex<HashMap<FileId, u32>>);

impl Sockets {
    fn port(&self, host: &TaskHost, fd: u64) -> Option<u32> {
        let sockets = self.0.lock();
        if sockets.is_empty() {
            return None;
        }
        let id = host.session.task_files.id(host.tid, fd as i32).ok()?;
        sockets.get(&id).copied()
    }
}

/// socket(2) of AF_NETLINK.
pub(crate) fn socket(host: &TaskHost, args: &[u64; 6]) -> Answer {
    const NETLINK_ROUTE: u64 = 0;
    let has_devices = host.session.daemon.shim.net().devices().len() > 1;
    if args[2] != NETLINK_ROUTE || !has_devices {
        return Answer::Pass;
    }
    let open = || -> Result<i32, Errno> {
        let keep = host.account(0)?;
        let nonblocking = if args[1] & SOCK_NONBLOCK != 0 {
            SocketFlags::NONBLOCK
        } else {
            SocketFlags::empty()
        };
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(errno)?;
        if !nonblocking.is_empty() {
            let flags = rustix::fs::OFlags::NONBLOCK;
            rustix::fs::fcntl_setfl(&theirs, flags).map_err(errno)?;
        }
        // Who asks is said with every request, as descriptors are passed on.
        sockopt::set_socket_passcred(&ours, true).map_err(errno)?;
        let id = FileId::of(&theirs)?;
        let session = Arc::clone(&host.session);
        session.netlink.0.lock().insert(id, host.task_group());
        let served = Served {
            session,
            id,
            _keep: keep,
        };
        thread::Builder::new()
            .name("ring3-netlink".to_owned())
            .spawn(move || served.run(&ours))
            .map_err(|_| Errno::EAGAIN)?;
        host.give(&theirs)
    };
    Answer::Result(open().map(i64::from))
}

/// A socket whose other end a client has; forgotten when that is closed.
struct Served {
    session: Arc<Session>,
    id: FileId,
    _keep: Keep,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.session.netlink.0.lock().remove(&self.id);
    }
}

impl Served {
    fn run(self, ours: &OwnedFd) {
        let mut request = vec![0; REQUEST_BYTES_MAX];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut request)];
            let got = match recvmsg(ours, &mut parts, &mut ancillary, RecvFlags::empty()) {
                Ok(got) if got.bytes > 0 => got.bytes,
                Err(rustix::io::Errno::INTR) => continue,
                _ => return,
            };
            let sender = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmCredentials(from) => Some(from.pid),
                _ => None,
            });
            let Some(sender) = sender else {
                continue;
            };
            let asker = Client {
                session: &self.session,
                tid: sender.as_raw_nonzero().get() as u32,
            };
            let port = self.session.netlink.0.lock().get(&self.id).copied();
            let net = self.session.daemon.shim.net();
            for answer in rtnetlink::answer(net, &asker, port.unwrap_or(0), &request[..got]) {
                let parts = [IoSlice::new(&answer)];
                let mut none = SendAncillaryBuffer::default();
                if sendmsg(ours.as_fd(), &parts, &mut none, SendFlags::NOSIGNAL).is_err() {
                    return;
                }
            }
        }
    }
}

/// A process of a client.
struct Client<'a> {
    session: &'a Session,
    tid: u32,
}

impl Asker for Client<'_> {
    fn program(&self, fd: i32) -> Result<Arc<Program>, Errno> {
        let id = self.session.task_files.id(self.tid, fd)?;
        match self.session.daemon.files.find(id) {
            Some(OpenFile::Prog(prog)) => Ok(prog),
            _ => Err(Errno::EINVAL),
        }
    }

    fn may_change(&self) -> bool {
        self.session.privilege.net_admin
    }
}

/// bind(2) with an address of netlink: a number of the client's choice, or its own.
pub(crate) fn bind(host: &TaskHost, memory: &TaskMemory<'_>, args: &[u64; 6]) -> Answer {
    let sockets = &host.session.netlink;
    if sockets.port(host, args[0]).is_none() {
        return Answer::Pass;
    }
    let mut address = [0; ADDRESS_BYTES];
    let bound = memory.read(args[1], &mut address).and_then(|()| {
        if u16::from_ne_bytes([address[0], address[1]]) != AF_NETLINK {
            return Err(Errno::EINVAL);
        }
        let port = u32::from_ne_bytes(std::array::from_fn(|i| address[4 + i]));
        let id = host.session.task_files.id(host.tid, args[0] as i32)?;
        if port != 0 {
            sockets.0.lock().insert(id, port);
        }
        Ok(0)
    });
    Answer::Result(bound)
}

/// getsockname(2)
pub(crate) fn getsockname(host: &TaskHost, memory: &mut TaskMemory<'_>, args: &[u64; 6]) -> Answer {
    let Some(port) = host.session.netlink.port(host, args[0]) else {
        return Answer::Pass;
    };
    let mut write = || {
        let mut room = [0; 4];
        memory.read(args[2], &mut room)?;
        let room = usize::try_from(i32::from_ne_bytes(room)).map_err(|_| Errno::EINVAL)?;
        let mut address = [0; ADDRESS_BYTES];
        address[..2].copy_from_slice(&AF_NETLINK.to_ne_bytes());
        address[4..8].copy_from_slice(&port.to_ne_bytes());
        memory.write(args[1], &address[..room.min(ADDRESS_BYTES)])?;
        memory.write(args[2], &(ADDRESS_BYTES as u32).to_ne_bytes())?;
        Ok(0)
    };
    Answer::Result(write())
}

/// setsockopt(2) of SOL_NETLINK: words for errors are always given, all else is as it is.
pub(crate) fn setsockopt(host: &TaskHost, args: &[u64; 6]) -> Answer {
    match host.session.netlink.port(host, args[0]) {
        Some(_) => Answer::Result(Ok(0)),
        None => Answer::Pass,
    }
}
