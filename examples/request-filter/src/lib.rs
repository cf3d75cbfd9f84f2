//! Filters of requests: a program type of a host application, with its context, its types, its helpers and its kfuncs.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock, atomic};

use ring3::host::{Host, HostProgram};
use ring3::{EngineKind, Error, LoadOptions, Program, System, objects::Object};

ring3::host_struct! {
    /// Who asks.
    pub struct Account {
        /// Number.
        pub id: u32,
        /// Bytes this account may send in one request.
        pub quota: u32,
        /// Requests of today.
        pub requests: u64,
    }
}

ring3::host_context! {
    /// What a filter sees.
    pub struct Request<'a> {
        /// 1 to read, 2 to write.
        pub method: u32,
        /// Bytes that are sent.
        pub bytes: u32,
        /// Who asks.
        pub account: &'a Account,
    }
}

/// Requests that filters reported.
pub static REPORTED: atomic::AtomicU64 = atomic::AtomicU64::new(0);

/// Helper 0x10000: how many more requests the account has today.
fn requests_left(account: &Account) -> u64 {
    1000u64.saturating_sub(account.requests)
}

/// Helper 0x10001: remembers that a request was odd.
fn report(request: &Request<'_>, weight: u32) {
    REPORTED.fetch_add(
        u64::from(request.method * weight),
        atomic::Ordering::Relaxed,
    );
}

/// Accounts by number.
pub static ACCOUNTS: RwLock<BTreeMap<u32, Arc<Account>>> = RwLock::new(BTreeMap::new());

/// Kfunc: the account with this number, which the filter must give back.
fn account_find(id: u32) -> Option<Arc<Account>> {
    ACCOUNTS.read().ok()?.get(&id).cloned()
}

/// Kfunc: takes an account back.
fn account_put(_account: Arc<Account>) {}

/// The program type `request_filter`, described.
pub fn request_filter() -> Host<Request<'static>> {
    Host::new("request_filter")
        .helper("requests_left", requests_left)
        .helper("report", report)
        .kfunc("account_find", account_find)
        .kfunc("account_put", account_put)
}

/// A filter that was accepted.
pub struct Filter {
    program: Arc<Program>,
    _system: Arc<System>,
}

impl Filter {
    /// Verifies and compiles the program `name` of an object file.
    ///
    /// # Errors
    /// What the verifier has against it.
    pub fn load(object: &[u8], name: &str, engine: EngineKind) -> Result<Filter, Error> {
        let system = System::for_host(request_filter())?;
        let options = LoadOptions {
            engine,
            programs: Some(vec![name.to_owned()]),
            ..LoadOptions::default()
        };
        let loaded = Object::parse(object, "filter")?
            .load_in(&system, &options)
            .map_err(|error| Error::from(*error))?;
        Ok(Filter {
            program: Arc::clone(loaded.program(name)?),
            _system: system,
        })
    }

    /// Whether the filter lets a request through.
    ///
    /// # Errors
    /// EINVAL: the program is no filter of requests.
    pub fn allows(&self, request: &mut Request<'_>) -> Result<bool, Error> {
        let program = HostProgram::<Request<'_>>::new(&*self.program)
            .map_err(|errno| Error::new(errno, "not a filter of requests"))?;
        Ok(program.run(request) != 0)
    }
}
