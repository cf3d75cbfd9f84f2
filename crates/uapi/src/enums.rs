//! The macro behind every UAPI enumeration: number, C name and short name in one row.

/// Declares a `#[repr(u32)]` enumeration whose rows are `Variant = value, "C_NAME", "short name";`. A last row `custom Variant;` adds a variant
/// that holds its number: one that the kernel does not have.
#[macro_export]
#[doc(hidden)]
macro_rules! uapi_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($variant:ident = $value:literal, $c_name:literal, $short:literal;)* $($(#[$custom_meta:meta])* custom $custom:ident;)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $name {
            $(#[doc = concat!("`", $c_name, "`")] $variant = $value,)*
            $($(#[$custom_meta])* $custom(u32),)?
        }

        impl $name {
            /// Every value of the kernel's, in numeric order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The value with this number, if the reference kernel knows it.
            pub const fn from_raw(raw: u32) -> Option<Self> {
                match raw {
                    $($value => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The number used in the ABI.
            pub const fn raw(self) -> u32 {
                match self {
                    $(Self::$variant => $value,)*
                    $(Self::$custom(raw) => raw,)?
                }
            }

            /// The name in linux/bpf.h.
            pub const fn c_name(self) -> &'static str {
                match self {
                    $(Self::$variant => $c_name,)*
                    $(Self::$custom(_) => stringify!($custom),)?
                }
            }

            /// The short lower-case name that tools print.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $short,)*
                    $(Self::$custom(_) => "custom",)?
                }
            }

            /// The value with this short name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
