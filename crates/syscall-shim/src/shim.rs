//! `Shim`: the entry point. Sizes are judged, the command is found in the table, its handler runs.

use std::sync::Arc;

use ring3_bpffs::BpfFs;
use ring3_net::Net;
use ring3_objects::{BtfObject, System};
use ring3_runtime::{RunContext, with_run_context};
use ring3_tracing::Tracing;
use ring3_uapi::{Cmd, Errno};

use crate::{Caller, GuestMemory, attr::Attr, support};

/// Where pins are unless told otherwise.
const BPFFS_PATH: &str = "/sys/fs/bpf";

/// bpf(2) for one system.
pub struct Shim {
    system: Arc<System>,
    bpffs: Arc<BpfFs>,
    net: Arc<Net>,
    tracing: Arc<Tracing>,
    /// Held, so that the kernel's types have an id.
    _kernel_btf: Option<Arc<BtfObject>>,
}

/// One call on its way through a handler.
pub(crate) struct Call<'a> {
    pub(crate) system: &'a Arc<System>,
    pub(crate) bpffs: &'a BpfFs,
    pub(crate) net: &'a Net,
    pub(crate) tracing: &'a Tracing,
    pub(crate) caller: &'a Caller,
    pub(crate) attr: Attr<'a>,
    pub(crate) memory: &'a mut dyn GuestMemory,
}

impl Shim {
    /// A shim with an empty tree of pins of its own at `/sys/fs/bpf`.
    pub fn new(system: Arc<System>) -> Shim {
        Shim::with_bpffs(system, Arc::new(BpfFs::mounted_at(BPFFS_PATH)))
    }

    /// A shim that pins into a tree that others may share.
    pub fn with_bpffs(system: Arc<System>, bpffs: Arc<BpfFs>) -> Shim {
        let net = Arc::new(Net::new(&system));
        // First, as it may add to the kernel's types.
        let tracing = Arc::new(Tracing::new(&system));
        let kernel_btf = system
            .kernel_btf()
            .map(|btf| BtfObject::create_kernel(&system, btf, "vmlinux"));
        Shim {
            system,
            bpffs,
            net,
            tracing,
            _kernel_btf: kernel_btf,
        }
    }

    /// The same over a model of devices that others may share.
    pub fn with_net(mut self, net: Arc<Net>) -> Shim {
        self.net = net;
        self
    }

    /// The same over functions and tracepoints that the host offers.
    pub fn with_tracing(mut self, tracing: Arc<Tracing>) -> Shim {
        self.tracing = tracing;
        self
    }

    /// The functions and tracepoints that programs are attached to.
    pub fn tracing(&self) -> &Arc<Tracing> {
        &self.tracing
    }

    /// The devices that programs are attached to.
    pub fn net(&self) -> &Arc<Net> {
        &self.net
    }

    /// The system it serves.
    pub fn system(&self) -> &Arc<System> {
        &self.system
    }

    /// Its tree of pins.
    pub fn bpffs(&self) -> &Arc<BpfFs> {
        &self.bpffs
    }

    /// bpf(2). `attr` is the caller's attribute block, as long as its `size` says; results come back in it and in `memory`.
    ///
    /// # Errors
    /// The errno that the reference kernel leaves, the same for every client. EINVAL: unknown command. ENOTSUPP: a part of a command that is
    /// not served (`SUPPORT`).
    pub fn bpf(
        &self,
        caller: &Caller,
        cmd: u32,
        attr: &mut [u8],
        memory: &mut dyn GuestMemory,
    ) -> Result<i64, Errno> {
        let attr = Attr::new(attr)?;
        let row = support::find(cmd).ok_or(Errno::EINVAL)?;
        attr.check_end(row.attr_bytes)?;
        let handler = row.handler;
        let mut call = Call {
            system: &self.system,
            bpffs: &self.bpffs,
            net: &self.net,
            tracing: &self.tracing,
            caller,
            attr,
            memory,
        };
        match caller.host() {
            // Programs that run, and records of who loaded what, are about the thread that calls.
            Some(host) if matches!(row.cmd, Cmd::ProgLoad | Cmd::ProgTestRun) => {
                let context = RunContext {
                    task: Some(host.task()),
                    ..RunContext::default()
                };
                with_run_context(&context, || handler(&mut call))
            }
            _ => handler(&mut call),
        }
    }
}
