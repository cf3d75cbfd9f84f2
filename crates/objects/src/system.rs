//! `System`: one BPF subsystem. Ids, the registry of rows, what program types can do, who hears audit events.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use ring3_btf::{Btf, TypeId};
use ring3_helpers::host::Host;
use ring3_runtime::{HelperFn, StatsSwitch, StatsUser};
use ring3_spec::{Registry, TargetTraits, host::HostContext};
use ring3_sync::idr::Idr;
use ring3_uapi::ProgType;

use crate::{
    AuditEvent, BtfObject, Error, LinkObject, MapObject, ProgTypeOps, Program, plain_runs,
};

type Subscriber = Box<dyn Fn(&AuditEvent) + Send + Sync>;

/// What programs of a host application call.
#[derive(Default)]
struct HostCode {
    helpers: HashMap<u32, HelperFn>,
    kfuncs: HashMap<&'static str, HelperFn>,
}

/// A BPF subsystem.
pub struct System {
    registry: Registry,
    maps: Idr<Weak<MapObject>>,
    progs: Idr<Weak<Program>>,
    links: Idr<Weak<LinkObject>>,
    btfs: Idr<Weak<BtfObject>>,
    prog_types: RwLock<HashMap<ProgType, Arc<dyn ProgTypeOps>>>,
    kernel_btf: RwLock<Option<Btf>>,
    has_kernel_variables: AtomicBool,
    host: HostCode,
    subscribers: Mutex<Vec<Subscriber>>,
    /// What the host says of functions in the kernel BTF.
    target_traits: RwLock<HashMap<TypeId, TargetTraits>>,
    /// Compiled programs keep their functions apart, for tracing.
    keeps_calls: AtomicBool,
    stats: Arc<StatsSwitch>,
}

impl System {
    /// A system with the rows of Linux 6.18 and nothing loaded.
    pub fn new() -> Arc<System> {
        System::with_registry(Registry::linux_6_18())
    }

    /// A system with a registry of the embedder's.
    pub fn with_registry(registry: Registry) -> Arc<System> {
        System::build(registry, HostCode::default())
    }

    /// A system for programs of a host application: its program type, types, helpers and kfuncs beside those of Linux.
    ///
    /// # Errors
    /// As [`Host::build`].
    pub fn for_host<C: HostContext>(host: Host<C>) -> Result<Arc<System>, Error> {
        let rows = host
            .build()
            .map_err(|(errno, message)| Error::new(errno, message))?;
        let code = HostCode {
            helpers: rows.helpers.into_iter().collect(),
            kfuncs: rows.kfuncs.into_iter().collect(),
        };
        let system = System::build(rows.registry, code);
        system.set_kernel_btf(rows.btf);
        Ok(system)
    }

    fn build(registry: Registry, host: HostCode) -> Arc<System> {
        Arc::new(System {
            registry,
            maps: Idr::new(),
            progs: Idr::new(),
            links: Idr::new(),
            btfs: Idr::new(),
            prog_types: RwLock::new(plain_runs::ops().into_iter().collect()),
            kernel_btf: RwLock::default(),
            has_kernel_variables: AtomicBool::new(false),
            host,
            subscribers: Mutex::default(),
            target_traits: RwLock::default(),
            keeps_calls: AtomicBool::new(false),
            stats: Arc::default(),
        })
    }

    /// Rows of program types, helpers and kfuncs.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Says what programs of this type can do beyond being loaded.
    pub fn register_prog_type(&self, prog_type: ProgType, ops: Arc<dyn ProgTypeOps>) {
        self.prog_types.write().insert(prog_type, ops);
    }

    /// What programs of this type can do.
    pub(crate) fn prog_type_ops(&self, prog_type: ProgType) -> Option<Arc<dyn ProgTypeOps>> {
        self.prog_types.read().get(&prog_type).cloned()
    }

    /// Whether programs of this type have a test run.
    pub fn has_test_run(&self, prog_type: ProgType) -> bool {
        self.prog_types.read().contains_key(&prog_type)
    }

    /// The BTF that kernel types are looked up in, if one was given.
    pub fn kernel_btf(&self) -> Option<Btf> {
        self.kernel_btf.read().clone()
    }

    /// Gives the BTF that kernel types are looked up in.
    pub fn set_kernel_btf(&self, btf: Btf) {
        *self.kernel_btf.write() = Some(btf);
    }

    /// What the host says of a function in the kernel BTF; the default for functions that it does not know.
    pub fn target_traits(&self, function: TypeId) -> TargetTraits {
        let traits = self.target_traits.read();
        traits.get(&function).copied().unwrap_or_default()
    }

    /// Says it.
    pub fn set_target_traits(&self, function: TypeId, traits: TargetTraits) {
        self.target_traits.write().insert(function, traits);
    }

    /// Lets programs that are compiled from now on keep every function apart, so that each can be traced.
    pub fn keep_calls(&self) {
        self.keeps_calls.store(true, Ordering::Relaxed);
    }

    pub(crate) fn keeps_calls(&self) -> bool {
        self.keeps_calls.load(Ordering::Relaxed)
    }

    /// Says whether programs may name variables of the kernel BTF, which are zeros here. At first they may not, as in the reference kernel, whose
    /// symbol table has functions only.
    pub fn set_kernel_variables(&self, may_be_named: bool) {
        self.has_kernel_variables
            .store(may_be_named, Ordering::Relaxed);
    }

    pub(crate) fn has_kernel_variables(&self) -> bool {
        self.has_kernel_variables.load(Ordering::Relaxed)
    }

    /// The implementation of a helper that the host registered.
    pub(crate) fn host_helper(&self, id: u32) -> Option<HelperFn> {
        self.host.helpers.get(&id).copied()
    }

    /// The implementation of a kfunc that the host registered.
    pub(crate) fn host_kfunc(&self, name: &str) -> Option<HelperFn> {
        self.host.kfuncs.get(name).copied()
    }

    /// Counts runs of programs and their time as long as the result lives: BPF_ENABLE_STATS.
    pub fn enable_stats(&self) -> StatsUser {
        StatsUser::new(&self.stats)
    }

    pub(crate) fn stats_switch(&self) -> &Arc<StatsSwitch> {
        &self.stats
    }

    /// Hears every load and unload from now on.
    pub fn subscribe_audit(&self, subscriber: impl Fn(&AuditEvent) + Send + Sync + 'static) {
        self.subscribers.lock().push(Box::new(subscriber));
    }

    pub(crate) fn audit(&self, event: &AuditEvent) {
        for subscriber in self.subscribers.lock().iter() {
            subscriber(event);
        }
    }

    /// The program with this id, if it is alive.
    pub fn program_by_id(&self, id: u32) -> Option<Arc<Program>> {
        self.progs.get(id)?.upgrade()
    }

    /// The map with this id, if it is alive.
    pub fn map_by_id(&self, id: u32) -> Option<Arc<MapObject>> {
        self.maps.get(id)?.upgrade()
    }

    /// The lowest program id above `id`.
    pub fn next_program_id(&self, id: u32) -> Option<u32> {
        self.progs.next_id(id)
    }

    /// The lowest map id above `id`.
    pub fn next_map_id(&self, id: u32) -> Option<u32> {
        self.maps.next_id(id)
    }

    pub(crate) fn register_map(
        self: &Arc<Self>,
        make: impl FnOnce(u32, Weak<System>) -> MapObject,
    ) -> Arc<MapObject> {
        let mut made = None;
        self.maps.insert_with(|id| {
            let map = Arc::new(make(id, Arc::downgrade(self)));
            let weak = Arc::downgrade(&map);
            made = Some(map);
            weak
        });
        made.expect("fewer than 2^31 maps are alive")
    }

    pub(crate) fn register_program(
        self: &Arc<Self>,
        make: impl FnOnce(u32, Weak<System>) -> Program,
    ) -> Arc<Program> {
        let mut made = None;
        self.progs.insert_with(|id| {
            let prog = Arc::new(make(id, Arc::downgrade(self)));
            let weak = Arc::downgrade(&prog);
            made = Some(prog);
            weak
        });
        made.expect("fewer than 2^31 programs are alive")
    }

    /// The link with this id, if it is alive.
    pub fn link_by_id(&self, id: u32) -> Option<Arc<LinkObject>> {
        self.links.get(id)?.upgrade()
    }

    /// The lowest id above `id` of a link that is attached or was; ids that are only reserved are passed by.
    pub fn next_link_id(&self, mut id: u32) -> Option<u32> {
        loop {
            id = self.links.next_id(id)?;
            if self.link_by_id(id).is_some() {
                return Some(id);
            }
        }
    }

    /// Takes an id for a link that is about to be attached. Nobody finds anything under it before [`System::publish_link`].
    pub(crate) fn reserve_link_id(&self) -> u32 {
        let id = self.links.insert(Weak::new());
        id.expect("fewer than 2^31 links are alive")
    }

    pub(crate) fn publish_link(&self, link: &Arc<LinkObject>) {
        self.links.replace(link.id(), Arc::downgrade(link));
    }

    /// The BTF with this id, if it is alive.
    pub fn btf_by_id(&self, id: u32) -> Option<Arc<BtfObject>> {
        self.btfs.get(id)?.upgrade()
    }

    /// The lowest BTF id above `id`.
    pub fn next_btf_id(&self, id: u32) -> Option<u32> {
        self.btfs.next_id(id)
    }

    /// The id of the kernel's BTF, if it has one.
    pub fn kernel_btf_id(&self) -> Option<u32> {
        let is_kernel = |(_, btf): &(u32, Weak<BtfObject>)| {
            btf.upgrade()
                .is_some_and(|btf| btf.kernel_name() == Some("vmlinux"))
        };
        let known = self.btfs.values().into_iter().find(is_kernel);
        known.map(|(id, _)| id)
    }

    pub(crate) fn register_btf(
        self: &Arc<Self>,
        make: impl FnOnce(u32, Weak<System>) -> BtfObject,
    ) -> Arc<BtfObject> {
        let mut made = None;
        self.btfs.insert_with(|id| {
            let btf = Arc::new(make(id, Arc::downgrade(self)));
            let weak = Arc::downgrade(&btf);
            made = Some(btf);
            weak
        });
        made.expect("fewer than 2^31 BTF objects are alive")
    }

    pub(crate) fn forget_btf(&self, id: u32) {
        self.btfs.remove(id);
    }

    pub(crate) fn forget_link(&self, id: u32) {
        self.links.remove(id);
    }

    pub(crate) fn forget_map(&self, id: u32) {
        self.maps.remove(id);
    }

    pub(crate) fn forget_program(&self, id: u32) {
        self.progs.remove(id);
    }
}
