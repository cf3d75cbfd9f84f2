//! Which helpers take which map types, as two tables that must both agree.
//!
//! # Source
//! `cannot pass map_type N into func F#M` on Linux 6.18.

use ring3_uapi::FuncId as F;
use ring3_uapi::MapType as M;

/// Map types that only these helpers take; a type not listed is taken by any helper.
pub static HELPERS_OF_MAP: &[(M, &[F])] = &[
    (M::ProgArray, &[F::TailCall]),
    (
        M::PerfEventArray,
        &[
            F::PerfEventRead,
            F::PerfEventOutput,
            F::SkbOutput,
            F::PerfEventReadValue,
            F::XdpOutput,
        ],
    ),
    (
        M::Ringbuf,
        &[
            F::RingbufOutput,
            F::RingbufReserve,
            F::RingbufQuery,
            F::RingbufReserveDynptr,
            F::RingbufSubmitDynptr,
            F::RingbufDiscardDynptr,
        ],
    ),
    (M::UserRingbuf, &[F::UserRingbufDrain]),
    (M::StackTrace, &[F::GetStackid]),
    (
        M::CgroupArray,
        &[F::SkbUnderCgroup, F::CurrentTaskUnderCgroup],
    ),
    (M::CgroupStorageDeprecated, &[F::GetLocalStorage]),
    (M::PercpuCgroupStorageDeprecated, &[F::GetLocalStorage]),
    (M::Devmap, &[F::RedirectMap, F::MapLookupElem]),
    (M::DevmapHash, &[F::RedirectMap, F::MapLookupElem]),
    (M::Cpumap, &[F::RedirectMap]),
    (M::Xskmap, &[F::RedirectMap, F::MapLookupElem]),
    (M::ArrayOfMaps, &[F::MapLookupElem]),
    (M::HashOfMaps, &[F::MapLookupElem]),
    (
        M::Sockmap,
        &[
            F::SkRedirectMap,
            F::SockMapUpdate,
            F::MsgRedirectMap,
            F::SkSelectReuseport,
            F::MapLookupElem,
        ],
    ),
    (
        M::Sockhash,
        &[
            F::SkRedirectHash,
            F::SockHashUpdate,
            F::MsgRedirectHash,
            F::SkSelectReuseport,
            F::MapLookupElem,
        ],
    ),
    (M::ReuseportSockarray, &[F::SkSelectReuseport]),
    (M::Queue, &[F::MapPeekElem, F::MapPopElem, F::MapPushElem]),
    (M::Stack, &[F::MapPeekElem, F::MapPopElem, F::MapPushElem]),
    (
        M::SkStorage,
        &[F::SkStorageGet, F::SkStorageDelete, F::KptrXchg],
    ),
    (
        M::InodeStorage,
        &[F::InodeStorageGet, F::InodeStorageDelete, F::KptrXchg],
    ),
    (
        M::TaskStorage,
        &[F::TaskStorageGet, F::TaskStorageDelete, F::KptrXchg],
    ),
    (
        M::CgrpStorage,
        &[F::CgrpStorageGet, F::CgrpStorageDelete, F::KptrXchg],
    ),
    (M::BloomFilter, &[F::MapPeekElem, F::MapPushElem]),
];

/// Helpers that only take these map types; a helper not listed takes any type.
pub static MAPS_OF_HELPER: &[(F, &[M])] = &[
    (F::TailCall, &[M::ProgArray]),
    (F::PerfEventRead, &[M::PerfEventArray]),
    (F::PerfEventOutput, &[M::PerfEventArray]),
    (F::PerfEventReadValue, &[M::PerfEventArray]),
    (F::SkbOutput, &[M::PerfEventArray]),
    (F::XdpOutput, &[M::PerfEventArray]),
    (F::RingbufOutput, &[M::Ringbuf]),
    (F::RingbufReserve, &[M::Ringbuf]),
    (F::RingbufQuery, &[M::Ringbuf]),
    (F::RingbufReserveDynptr, &[M::Ringbuf]),
    (F::UserRingbufDrain, &[M::UserRingbuf]),
    (F::GetStackid, &[M::StackTrace]),
    (F::CurrentTaskUnderCgroup, &[M::CgroupArray]),
    (F::SkbUnderCgroup, &[M::CgroupArray]),
    (
        F::RedirectMap,
        &[M::Devmap, M::DevmapHash, M::Cpumap, M::Xskmap],
    ),
    (F::SkRedirectMap, &[M::Sockmap]),
    (F::MsgRedirectMap, &[M::Sockmap]),
    (F::SockMapUpdate, &[M::Sockmap]),
    (F::SkRedirectHash, &[M::Sockhash]),
    (F::MsgRedirectHash, &[M::Sockhash]),
    (F::SockHashUpdate, &[M::Sockhash]),
    (
        F::GetLocalStorage,
        &[M::CgroupStorageDeprecated, M::PercpuCgroupStorageDeprecated],
    ),
    (
        F::SkSelectReuseport,
        &[M::ReuseportSockarray, M::Sockmap, M::Sockhash],
    ),
    (F::MapPopElem, &[M::Queue, M::Stack]),
    (F::MapPeekElem, &[M::Queue, M::Stack, M::BloomFilter]),
    (F::MapPushElem, &[M::Queue, M::Stack, M::BloomFilter]),
    (
        F::MapLookupPercpuElem,
        &[M::PercpuArray, M::PercpuHash, M::LruPercpuHash],
    ),
    (F::SkStorageGet, &[M::SkStorage]),
    (F::SkStorageDelete, &[M::SkStorage]),
    (F::InodeStorageGet, &[M::InodeStorage]),
    (F::InodeStorageDelete, &[M::InodeStorage]),
    (F::TaskStorageGet, &[M::TaskStorage]),
    (F::TaskStorageDelete, &[M::TaskStorage]),
    (F::CgrpStorageGet, &[M::CgrpStorage]),
    (F::CgrpStorageDelete, &[M::CgrpStorage]),
];

/// Whether the map type's row permits the helper.
pub fn map_takes(map_type: M, helper: F) -> bool {
    HELPERS_OF_MAP
        .iter()
        .find(|(ty, _)| *ty == map_type)
        .is_none_or(|(_, helpers)| helpers.contains(&helper))
}

/// Whether the helper's row permits the map type.
pub fn helper_takes(helper: F, map_type: M) -> bool {
    MAPS_OF_HELPER
        .iter()
        .find(|(func, _)| *func == helper)
        .is_none_or(|(_, types)| types.contains(&map_type))
}
