//! The table `[kill_switch]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::shape::{List, PortNumber, unplaced};
use super::{Placed, placed};
use crate::config::kill_switch::{handshake_max, prefix};
use crate::config::{self, EndpointProtocol, KillSwitchLayer, KillSwitchMode, RuleError};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct KillSwitch {
    mode: Option<Spanned<String>>,
    dhcp: Option<bool>,
    ndp: Option<bool>,
    lan: Option<List<String>>,
    handshake_max: Option<Spanned<String>>,
    // Last: TOML writes a list of tables behind the values.
    endpoints: Option<List<Endpoint>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Endpoint {
    address: Spanned<String>,
    port: Spanned<PortNumber>,
    protocol: Option<Spanned<String>>,
    mark: Option<Spanned<i64>>,
    cgroup: Option<Spanned<String>>,
}

impl KillSwitch {
    /// The table that reads back as the same.
    pub(super) fn of(kill_switch: &config::KillSwitch) -> Self {
        let config::KillSwitch {
            mode,
            endpoints,
            dhcp,
            ndp,
            lan,
            handshake_max,
        } = kill_switch;
        let milliseconds = handshake_max.map_or(0, |limit| limit.as_millis());
        Self {
            mode: Some(unplaced(mode.name().to_owned())),
            dhcp: Some(*dhcp),
            ndp: Some(*ndp),
            lan: Some(List::unplaced(lan.iter().map(ToString::to_string))),
            handshake_max: Some(unplaced(match milliseconds % 1000 {
                0 => format!("{}s", milliseconds / 1000),
                _ => format!("{milliseconds}ms"),
            })),
            endpoints: Some(List::unplaced(endpoints.iter().map(Endpoint::of))),
        }
    }

    pub(super) fn into_layer(self) -> Result<KillSwitchLayer, Placed> {
        let Self {
            mode,
            dhcp,
            ndp,
            lan,
            handshake_max: limit,
            endpoints,
        } = self;
        Ok(KillSwitchLayer {
            mode: mode
                .map(|name| placed(&name, |name| KillSwitchMode::named(name)))
                .transpose()?,
            endpoints: endpoints
                .map(|List(list)| list.iter().map(Endpoint::read).collect())
                .transpose()?,
            dhcp,
            ndp,
            lan: lan
                .map(|List(list)| {
                    list.iter()
                        .map(|text| placed(text, |t| prefix(t)))
                        .collect()
                })
                .transpose()?,
            handshake_max: limit
                .map(|text| placed(&text, |text| handshake_max(text)))
                .transpose()?,
        })
    }
}

impl Endpoint {
    fn of(endpoint: &config::Endpoint) -> Self {
        let config::Endpoint {
            address,
            port,
            protocol,
            mark,
            cgroup,
        } = endpoint;
        Self {
            address: unplaced(address.to_string()),
            port: unplaced(PortNumber((*port).into())),
            protocol: Some(unplaced(protocol.name().to_owned())),
            mark: (*mark != 0).then(|| unplaced((*mark).into())),
            cgroup: cgroup
                .as_ref()
                .map(|cgroup| unplaced(cgroup.display().to_string())),
        }
    }

    fn read(table: &Spanned<Self>) -> Result<config::Endpoint, Placed> {
        let Self {
            address,
            port,
            protocol,
            mark,
            cgroup,
        } = table.get_ref();
        let endpoint = config::Endpoint {
            address: placed(address, |text| {
                text.parse()
                    .ok()
                    .ok_or_else(|| RuleError::Address { text: text.clone() })
            })?,
            port: placed(port, |PortNumber(number)| match u16::try_from(*number) {
                Ok(port @ 1..) => Ok(port),
                _ => Err(RuleError::PortOutOfRange { number: *number }),
            })?,
            protocol: protocol
                .as_ref()
                .map(|name| placed(name, |name| EndpointProtocol::named(name)))
                .transpose()?
                .unwrap_or_default(),
            mark: mark
                .as_ref()
                .map(|number| placed(number, |number| read_mark(*number)))
                .transpose()?
                .unwrap_or_default(),
            cgroup: cgroup.as_ref().map(|path| PathBuf::from(path.get_ref())),
        };
        placed(table, |_| endpoint.check())?;
        Ok(endpoint)
    }
}

fn read_mark(number: i64) -> Result<u32, RuleError> {
    match u32::try_from(number) {
        Ok(mark @ 1..) => Ok(mark),
        _ => Err(RuleError::MarkOutOfRange { number }),
    }
}
