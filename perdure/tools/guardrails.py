"""The shipped sets of rules: what hardly any agent should do, and secrets where they do not belong.

A guardrail is a net, not a wall: it catches slips and the well-known shapes, never somebody who hides what he
does. Patterns are searched in linear time (no look-around); ``docs/policy.md`` says what each is after.
"""

from __future__ import annotations

from collections.abc import Mapping

from perdure.core.spec import Effect
from perdure.definitions import RuleDefinition

_CHANGING: tuple[Effect, ...] = ("idempotent", "once")  # a tool that only reads destroys nothing

# Where a shell begins a command: at the start of a line, after a sign that ends the one before, in quotes, and
# behind words that run what follows. So "never rm -rf / your disk" in a letter is no command.
_RUNS_WHAT_FOLLOWS = (
    r"(?:(?:sudo|doas|nohup|time|exec|command|builtin|env|xargs|nice|busybox|then|do|else)(?:\s+-u\s+\S+|\s+-\S+)*\s+"
    r"|ssh\s+(?:-\S+\s+)*\S+\s+|-exec\s+|[A-Za-z_]\w*=\S*\s+)*"
)
_COMMAND = r"(?m)(?:^|[;&|({`\"']|-exec\s|\s-c\s)\s*" + _RUNS_WHAT_FOLLOWS + r"(?:/(?:usr/)?(?:local/)?s?bin/|\\)?"
_END = r"(?:\s|$|[;&|)}`\"'])"
_FOLDERS = r"bin|boot|dev|etc|home|lib|lib64|opt|proc|root|sbin|srv|sys|usr|var|Users|System|Library|Applications"
_EVERYTHING = (
    r"[\"']?(?:/(?:\*|\.\*?|(?:"
    + _FOLDERS
    + r")(?:/\*?)?)?|(?:~|\$HOME|\$\{HOME\})[\"']?(?:/\*?)?|\.{1,2}/?\*?|\*)"
    + _END
)
_DISK = r"[\"']?/dev/(?:r?disk\d|[shv]d[a-z]|xvd[a-z]|nvme\d|mmcblk\d|md\d|mapper/|dm-\d)"
_ARGUMENTS = r"(?:[^\s;&|]+\s+)*"
_SHELL = (
    r"(?:sudo\s+(?:-\S+\s+)*)?(?:env\s+)?(?:/\S*/)?"
    r"(?:(?:ba|z|da|k|fi)?sh\b|(?:python[\d.]*|perl|ruby|node)\s*(?:-\s*)?(?:$|[;&|\"'`)]))"
)
_BRANCH = r"(?:main|master|trunk|production|release)"

_DESTRUCTIVE: tuple[tuple[str, str], ...] = (
    (
        "deletes everything, a system folder or the home",
        _COMMAND + r"rm\s+" + _ARGUMENTS + r"(?:-\w*[rR]\w*|--recursive)\s+" + _ARGUMENTS + _EVERYTHING,
    ),
    ("switches off rm's own guard of the root", _COMMAND + r"rm\s[^;&|\n]*--no-preserve-root"),
    (
        "deletes what it finds, from the root or the home on",
        _COMMAND
        + r"find\s+(?:/|~/?|[\"']?\$HOME[\"']?/?|/(?:"
        + _FOLDERS
        + r")/?)\s[^;&|\n]*(?:-delete\b|-exec\s+(?:\S*/)?rm\b)",
    ),
    (
        "makes a file system on a disk",
        _COMMAND + r"(?:mkfs(?:\.\w+)?|mke2fs|mkswap|wipefs|blkdiscard)\s[^;&|\n]*/dev/\w",
    ),
    ("writes over a disk", r"\bdd\s[^;&|\n]*\bof=" + _DISK),
    ("writes over a disk", r"(?:>\s*|\b(?:tee|shred)\s[^;&|\n]*?|\bcp\s[^;&|\n]*\s)" + _DISK),
    ("is a fork bomb", r"[\w:.]+\s*\(\s*\)\s*\{\s*[\w:.]+\s*\|\s*[\w:.]+\s*&\s*\}\s*;\s*[\w:.]+"),
    (
        "changes permissions or owners of everything",
        _COMMAND + r"(?:chmod|chown|chgrp)\s+" + _ARGUMENTS + r"(?:-\w*R\w*|--recursive)\s+" + _ARGUMENTS + _EVERYTHING,
    ),
    ("overwrites accounts or mounts of the system", r">\s*/etc/(?:passwd|shadow|group|sudoers|fstab)\b"),
    ("runs what it downloads, unseen", r"(?m)\b(?:curl|wget)\s[^\n]*[^|\n]\|\s*" + _SHELL),
    (
        "runs what it downloads, unseen",
        r"\b(?:(?:ba|z|da|k)?sh|eval|source|exec|python[\d.]*)\s(?:[^\n;|]*[\s\"'])?[\"']?(?:\$\(|<\(|`)\s*(?:curl|wget)\s",
    ),
    (
        "drops a database, a schema or a table",
        r"(?im)(?:^|[;\"'`(]|\s-[ec]\s)\s*drop\s+(?:database|schema|table)\s+(?:if\s+exists\s+)?"
        r"[\w\"`\[\]$.-]+(?:\s*,\s*[\w\"`\[\]$.-]+)*\s*(?:;|$|[\"'`)]|cascade\b|restrict\b)",
    ),
    (
        "empties a table",
        r"(?im)(?:^|[;\"'`(])\s*(?:truncate\s+(?:table\s+)?|delete\s+from\s+)[\w\"`\[\].]+\s*(?:;|$|[\"'`)])",
    ),
    (
        "empties a database",
        r"(?i)\bdropdb\s+(?:-\S+\s+)*\w|\bredis-cli\b[^\n;&|]*\bflush(?:all|db)\b|\.dropDatabase\s*\(",
    ),
    ("empties a database", _COMMAND + r"(?i:flush(?:all|db)(?:\s+a?sync)?)\s*(?:$|[;&|)}`\"'])"),
    (
        "rewrites or removes a main branch for everybody",
        r"\bgit\s(?:[^;&|\n]*\s)?push\s(?:[^;&|\n]*\s)?(?:--force|--delete|--mirror|-[a-zA-Z]*[fd][a-zA-Z]*)\s(?:[^;&|\n]*[\s:/])?"
        + _BRANCH
        + _END,
    ),
    (
        "rewrites or removes a main branch for everybody",
        r"\bgit\s(?:[^;&|\n]*\s)?push\s(?:[^;&|\n]*\s)?(?:(?:\S*[:/])?"
        + _BRANCH
        + r"\s(?:[^;&|\n]*\s)?(?:--force|--delete|-f|-d)"
        + _END
        + r"|\+(?:[^\s:]*:)?"
        + _BRANCH
        + _END
        + r"|:"
        + _BRANCH
        + _END
        + r")",
    ),
    (
        "stops the machine",
        _COMMAND
        + r"(?:shutdown\s+(?:-\S+|now|\+\d+|\d\d:\d\d)|(?:reboot|poweroff)(?:\s+(?:-\S+|now))*\s*(?:$|[;&|)}`\"'])"
        r"|halt\s+-\S+|(?:tel)?init\s+[06]\b|systemctl\s+(?:-\S+\s+)*(?:poweroff|reboot|halt|kexec)\b)",
    ),
    ("kills every process", _COMMAND + r"kill\s+(?:-\w+\s+)+(?:--\s+)?-1\s*(?:$|[;&|)}`\"'])"),
    (
        "deletes or formats a Windows drive",
        r"(?i)\b(?:rd|rmdir|del|erase)\s+(?:/\w\s+)*/s\s+(?:/\w\s+)*[\"']?[a-z]:[\\/]?\*?(?:\s|$|[\"'&|])"
        r"|\bformat\s+[a-z]:(?:\s|$)|\bremove-item\b[^\n;|]*-recurse\b[^\n;|]*\s[a-z]:[\\/]?\*?(?:\s|$|[\"';|])",
    ),
    (
        "tears down what runs elsewhere",
        r"\bterraform\s(?:[^\n;&|]*\s)?destroy\s[^\n;&|]*-auto-approve|\bkubectl\s[^\n;&|]*\bdelete\s[^\n;&|]*(?:\bnamespaces?\b|\bns\b|--all\b)"
        r"|\baws\s+s3\s+(?:rb\s[^\n;&|]*--force|rm\s+s3://[^\s/]+/?\s[^\n;&|]*--recursive)",
    ),
)

# Written out, for \b knows all of Unicode and would leave the fast path of the engine at the first accent.
_FROM = r"(?:^|[^A-Za-z0-9_])"
_TO = r"(?:[^A-Za-z0-9_]|$)"

_SECRETS: tuple[tuple[str, str], ...] = (
    (
        "a private key",
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:\s|\\[nr])*"
        r"(?:[A-Za-z-]+: [^\n\\]*(?:\s|\\[nr])+)*[A-Za-z0-9+/]{16}",
    ),
    ("an AWS access key", _FROM + r"(?:AKIA|ASIA)[A-Z2-7]{16}" + _TO),
    (
        "an AWS secret key",
        r"(?i)aws_?(?:secret_?access_?key|secret_?key|secret)[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9/+]{40}(?:[^A-Za-z0-9/+=]|$)",
    ),
    ("a GitHub token", _FROM + r"(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})"),
    ("a GitLab token", _FROM + r"glpat-[A-Za-z0-9_-]{20}"),
    ("an Anthropic key", _FROM + r"sk-ant-[a-z]+[0-9]{2}-[A-Za-z0-9_-]{80}"),
    (
        "an OpenAI key",
        _FROM + r"sk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{40}"
        r"|(?:[A-Za-z0-9]{48}|[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20})" + _TO + r")",
    ),
    (
        "a Slack token",
        _FROM + r"(?:xox[abeoprs]-(?:[0-9]+-)*[A-Za-z0-9-]{20}|xapp-[0-9]-[A-Z0-9]+-[0-9]+-[a-f0-9]{32})",
    ),
    ("a Slack webhook", r"hooks\.slack\.com/services/T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/[A-Za-z0-9]{20}"),
    ("a Stripe key", _FROM + r"(?:[sr]k_live_[A-Za-z0-9]{16}|whsec_[A-Za-z0-9+/]{32})"),
    ("a Google key", _FROM + r"AIza[A-Za-z0-9_-]{35}(?:[^A-Za-z0-9_-]|$)"),
    ("a Hugging Face token", _FROM + r"hf_[A-Za-z]{34}" + _TO),
    ("a package registry's token", _FROM + r"(?:npm_[A-Za-z0-9]{36}" + _TO + r"|pypi-AgE[A-Za-z0-9_-]{50})"),
)


def _rules() -> Mapping[str, list[RuleDefinition]]:
    return {
        "destructive_commands": [
            RuleDefinition(tool="*", action="deny", effect=effect, matches=pattern, reason=f"the command {reason}")
            for reason, pattern in _DESTRUCTIVE
            for effect in _CHANGING
        ],
        "secrets": [
            RuleDefinition(tool="*", action="deny", matches=pattern, reason=f"{what} in the arguments")
            for what, pattern in _SECRETS
        ],
        "secrets_in_results": [
            RuleDefinition(tool="*", action="deny", matches_result=pattern, reason=f"{what} in the result")
            for what, pattern in _SECRETS
        ],
    }


GUARDRAILS: Mapping[str, list[RuleDefinition]] = _rules()
GUARDRAILS_ON: tuple[str, ...] = ("destructive_commands", "secrets")  # unless a policy names its own
