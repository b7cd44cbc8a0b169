//! Sends packets past the programs, on the way that they would take out of this host.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;

use leakguard_common::abi::{Class, LOOPBACK_IFINDEX, Reason, Role, Settings, Verdict};
use leakguard_common::packet::LinkLayer;

use super::hook::{self, Answer, MOST};
use super::look::Look;
use super::report::{
    CONFIGURATION, ENFORCED, Explanation, HookRuling, ProgramRef, Summary, Tally, VERSION, named,
};
use super::why::{Why, why};
use super::{Captured, ExplainError, Frame, frame::NoFrame};
use crate::config::Config;
use crate::event::InterfaceRef;
use crate::guard::{GuardError, ipv6_policy, kill_switch_mode, plan};
use crate::interfaces::{
    self, Exit, Interface, RolePatterns, Snapshot, classify, path_towards, snapshot,
};
use crate::kernel::enforcement::other_versions;
use crate::kernel::pins::Pins;
use crate::kernel::read_back::ReadBack;
use crate::kernel::trial::{Asked, Trial, Way, tag_of};

/// What packets are judged by.
pub enum Basis {
    /// What is enforced now.
    Enforced(Box<ReadBack>),
    /// What a configuration would enforce.
    Configuration(Box<Config>),
}

impl Basis {
    /// What is enforced now; `None` if nothing is.
    pub fn enforced(bpffs: &Path) -> Result<Option<Self>, ExplainError> {
        let state = ReadBack::open(&Pins::at(bpffs))?;
        Ok(state.map(|state| Self::Enforced(Box::new(state))))
    }
}

/// How packets are to leave.
#[derive(Clone, Debug, Default)]
pub struct Journey {
    /// The exit interface's name; without one, the kernel's route to each destination says.
    pub interface: Option<String>,
    /// They came in by another interface, and no socket of this host has sent them.
    pub forwarded: bool,
    /// Their mark.
    pub mark: u32,
}

/// The programs, asked about one packet after the other.
pub struct Judge {
    trial: Trial,
    state: Option<Box<ReadBack>>,
    settings: Settings,
    engaged: bool,
    interfaces: BTreeMap<u32, Interface>,
    exit: Option<u32>,
    forwarded: bool,
    mark: u32,
    routes: HashMap<IpAddr, interfaces::Path>,
    /// Whether a TC program is on an uplink, by its number.
    covered: BTreeMap<u32, bool>,
    programs: Vec<ProgramRef>,
    notes: Vec<String>,
    tally: Tally,
    packets: u64,
}

impl Judge {
    /// Loads the programs, beside what enforces or with what the configuration says.
    pub async fn new(bpffs: &Path, basis: Basis, journey: &Journey) -> Result<Self, ExplainError> {
        let snapshot = snapshot().await?;
        let pins = Pins::at(bpffs);
        let exit = journey.interface.as_deref();
        let exit = exit.map(|name| number(&snapshot, name)).transpose()?;
        let mut notes = Vec::new();
        for path in other_versions(&pins)? {
            notes.push(format!(
                "another version of leakguard has left its state in {path}, and what that does is not known"
            ));
        }
        let (trial, state, patterns) = match basis {
            Basis::Enforced(state) => {
                if !state.here {
                    return Err(ExplainError::Elsewhere {
                        bpffs: bpffs.to_owned(),
                    });
                }
                if let Some(gap) = state.gaps.first() {
                    return Err(ExplainError::Incomplete { why: gap.clone() });
                }
                (Trial::beside(&pins)?, Some(state), RolePatterns::default())
            }
            Basis::Configuration(config) => (
                Trial::of_plan(&plan(&config, &snapshot).map_err(GuardError::from)?)?,
                None,
                config.role_patterns(),
            ),
        };
        if journey.forwarded {
            notes.push(
                "the nftables tables are not asked: they judge what no TC program does".into(),
            );
        }
        let mut judge = Self {
            settings: trial.settings()?,
            engaged: trial.is_engaged()?,
            trial,
            state,
            interfaces: classify(&snapshot, &patterns),
            exit,
            forwarded: journey.forwarded,
            mark: journey.mark,
            routes: HashMap::new(),
            covered: BTreeMap::new(),
            programs: Vec::new(),
            notes,
            tally: Tally::default(),
            packets: 0,
        };
        judge.note_cgroup()?;
        Ok(judge)
    }

    /// The address that a local sender to a destination would have.
    pub async fn local_address(&mut self, towards: IpAddr) -> Result<Option<IpAddr>, ExplainError> {
        Ok(self.route(towards).await?.source)
    }

    /// Says what becomes of a packet.
    pub async fn explain(&mut self, captured: &Captured) -> Result<Explanation, ExplainError> {
        let Captured {
            number,
            link,
            bytes,
            length,
        } = captured;
        let explanation = match Frame::of(*link, bytes) {
            Ok(frame) => {
                let whole = u32::try_from(bytes.len()).is_ok_and(|captured| captured >= *length);
                self.judge(*number, &frame, *length, whole).await?
            }
            Err(none) => Explanation::unjudged(*number, *length, None, None, no_frame(none)),
        };
        self.packets += 1;
        self.tally.add(&explanation);
        Ok(explanation)
    }

    /// What there is to say of all packets; `complete` if there were no more.
    pub fn summary(&self, complete: bool) -> Summary {
        Summary {
            v: VERSION,
            kind: "summary",
            complete,
            basis: if self.state.is_some() {
                ENFORCED
            } else {
                CONFIGURATION
            },
            mode: if self.settings.mode == Settings::OBSERVE {
                "observe"
            } else {
                "enforce"
            },
            kill_switch: kill_switch_mode(&self.settings).name(),
            engaged: self.engaged,
            ipv6: ipv6_policy(&self.settings).name(),
            programs: self.programs.clone(),
            notes: self.notes(),
            packets: self.packets,
            counts: self.tally.counts(),
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        if self.forwarded && !self.trial.knows_forwarding() {
            notes.push(
                "this kernel cannot try a packet that came in by an interface (5.18 can): DHCP and neighbour discovery \
                 are judged as this host's own"
                    .into(),
            );
        }
        notes
    }

    async fn judge(
        &mut self,
        number: u64,
        frame: &Frame,
        length: u32,
        whole: bool,
    ) -> Result<Explanation, ExplainError> {
        let unjudged = |look, interface, why: &str| {
            Ok(Explanation::unjudged(
                number,
                length,
                Some(look),
                interface,
                why,
            ))
        };
        let mut look = Look::at(frame, &self.settings);
        let exit = match (self.exit, look.towards) {
            (Some(exit), _) => exit,
            (None, Some(towards)) => match self.route(towards).await?.exit {
                Exit::Here => LOOPBACK_IFINDEX,
                Exit::By(exit) => exit,
                Exit::Nowhere => {
                    let why = "there is no route to its destination; --interface names a way all the same";
                    return unjudged(look, None, why);
                }
            },
            (None, None) => {
                let why =
                    "no destination can be read in it; --interface names the way that it takes";
                return unjudged(look, None, why);
            }
        };
        let role = self.trial.role(exit);
        let interface = InterfaceRef {
            index: exit,
            name: self.interfaces.get(&exit).map(|found| found.name.clone()),
            role: role.name().into(),
        };
        let mut hooks = Vec::new();
        // The first one, unless a later one has more to say.
        let mut decision: Option<HookRuling> = None;
        let way = Way {
            ifindex: exit,
            // Which one it was is not asked, only whether there was any.
            ingress_ifindex: if self.forwarded { LOOPBACK_IFINDEX } else { 0 },
            mark: self.mark,
        };
        for asked in self.met(exit, role)? {
            let (ruling, passes) = match hook::ask(&mut self.trial, asked, frame, &way, &mut look)?
            {
                Answer::Unseen => continue,
                Answer::TooShort => {
                    let why = "it is shorter than what the kernel runs a program over";
                    return unjudged(look, Some(interface), why);
                }
                Answer::Says { ruling, passes } => (ruling, passes),
            };
            hooks.push(ruling);
            if decision.is_none_or(|so_far| so_far.verdict == PASS && ruling.reason != OTHER) {
                decision = Some(ruling);
            }
            if !passes {
                break;
            }
        }
        if hooks.is_empty() && role == Role::Uplink {
            let why = match frame.ip() {
                Some(_) => "no program judges it there; `leakguard status` says what is missing",
                None => no_frame(NoFrame::NotIp),
            };
            return unjudged(look, Some(interface), why);
        }
        let (verdict, reason) = decision.map_or((PASS, OTHER), |hook| (hook.verdict, hook.reason));
        let class = Class::from_name(reason).or(look.class);
        let why = why(&Why {
            verdict,
            reason,
            class,
            role,
            interface: &named(interface.name.as_deref(), exit),
            met: !hooks.is_empty(),
            engaged: self.engaged,
            whole: whole && frame.ethernet().len() <= MOST,
        });
        Ok(Explanation {
            verdict: Some(verdict),
            reason: Some(reason),
            class: class.map(Class::name),
            hook: decision.map(|hook| hook.hook),
            hooks,
            ..Explanation::unjudged(number, length, Some(look), Some(interface), why)
        })
    }

    /// The programs that a packet meets on its way out by an interface, in their order.
    fn met(&mut self, exit: u32, role: Role) -> Result<Vec<Asked>, ExplainError> {
        let mut met = Vec::new();
        let attached = self.state.as_ref().map(|state| state.cgroup.is_some());
        if !self.forwarded && attached != Some(false) {
            met.push(Asked::Cgroup);
        }
        if role != Role::Uplink {
            return Ok(met);
        }
        let link = self
            .interfaces
            .get(&exit)
            .map_or(LinkLayer::Unknown, |interface| interface.link_layer);
        let covered = match self.covered.get(&exit) {
            Some(covered) => *covered,
            None => self.look_at_tc(exit, Asked::Tc(link))?,
        };
        if covered {
            met.push(Asked::Tc(link));
        }
        Ok(met)
    }

    /// Whether there is a TC program on an uplink.
    fn look_at_tc(&mut self, exit: u32, asked: Asked) -> Result<bool, ExplainError> {
        let covered = match &self.state {
            None => {
                self.note_program(asked, None)?;
                true
            }
            Some(state) => {
                let attached = state.tc_program(exit)?;
                self.note_program(asked, attached)?;
                attached.is_some()
            }
        };
        if !covered {
            let name = self.interfaces.get(&exit).map(|found| found.name.as_str());
            self.notes.push(format!(
                "no TC program is on {}: what is forwarded there meets the nftables tables alone, and `leakguard \
                 status` says more",
                named(name, exit)
            ));
        }
        self.covered.insert(exit, covered);
        Ok(covered)
    }

    fn note_cgroup(&mut self) -> Result<(), ExplainError> {
        if self.forwarded {
            return Ok(());
        }
        let attached = self.state.as_ref().map(|state| state.cgroup);
        if attached == Some(None) {
            self.notes
                .push("no program judges local sockets; `leakguard status` says more".into());
        }
        self.note_program(
            Asked::Cgroup,
            attached.flatten().map(|found| found.program_id),
        )
    }

    /// Notes which program is asked, and whether it is the one that is attached.
    fn note_program(&mut self, asked: Asked, attached: Option<u32>) -> Result<(), ExplainError> {
        let name = self.trial.program(asked);
        let tag = self.trial.tag(asked)?;
        let attached = attached.map(|id| tag_of(id) == Some(tag));
        match self.programs.iter_mut().find(|known| known.name == name) {
            // One that differs, on whatever interface, is what has to be known.
            Some(known) => {
                known.attached = match (known.attached, attached) {
                    (Some(so_far), Some(same)) => Some(so_far && same),
                    (so_far, same) => so_far.or(same),
                };
            }
            None => self.programs.push(ProgramRef {
                name,
                tag: format!("{tag:016x}"),
                attached,
            }),
        }
        Ok(())
    }

    async fn route(&mut self, towards: IpAddr) -> Result<interfaces::Path, ExplainError> {
        if let Some(known) = self.routes.get(&towards) {
            return Ok(*known);
        }
        let path = path_towards(towards, self.exit, self.mark).await?;
        self.routes.insert(towards, path);
        Ok(path)
    }
}

const PASS: &str = Verdict::Pass.name();
const OTHER: &str = Reason::Other.name();

/// The number of an interface by one of its names.
fn number(snapshot: &Snapshot, name: &str) -> Result<u32, GuardError> {
    let mut links = snapshot.links.values();
    links
        .find(|link| link.names().any(|known| known == name))
        .map(|link| link.ifindex)
        .ok_or_else(|| GuardError::NoInterface {
            name: name.to_owned(),
        })
}

fn no_frame(none: NoFrame) -> &'static str {
    match none {
        NoFrame::Short => "what was captured of it ends before the packet begins",
        NoFrame::NotIp => "it is not IP: its link layer sends it past every hook",
    }
}
