# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion for vmferry(1)

_vmferry_guests() {
    vmferry "${bus[@]}" --json list 2>/dev/null | sed -n 's/.*"Name":"\([^"\\]*\)".*/\1/p'
}

_vmferry() {
    local cur=${COMP_WORDS[COMP_CWORD]} command='' word at=0 i
    local -a bus=()
    local commands='list status wait ping send call monitor exec shell cp jobs cancel queue enable disable deploy adopt
        upgrade actions metrics'
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
            --user | --system) bus+=("$word") ;;
            -H | --host) i=$((i + 1)) ;;
            -*) ;;
            *) command=$word at=$i; break ;;
        esac
    done
    COMPREPLY=()
    if [[ -z $command ]]; then
        if [[ $cur == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W '--user --system -H --host --json --version --help' -- "$cur")
        else
            mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur")
        fi
        return
    fi
    case $command in
        status | wait | ping | send | call | monitor | shell | enable | disable | adopt | upgrade | queue)
            if [[ $cur == -* ]]; then
                local options=''
                case $command in
                    wait) options='--timeout' ;;
                    ping) options='-c' ;;
                    send | call) options='--queue --ttl --key --timeout' ;;
                    shell) options='-u --user' ;;
                    enable | disable) options='--dry-run' ;;
                    upgrade) options='--all --at-once --agent= --force --timeout' ;;
                    adopt) options='--agent= --dry-run --no-enable --timeout' ;;
                esac
                mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
            elif ((COMP_CWORD == at + 1)) || [[ ${COMP_WORDS[COMP_CWORD - 1]} == -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W "$(_vmferry_guests)" -- "$cur")
            fi
            ;;
        exec)
            if [[ $cur == -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W '-t -i -u -w -e --timeout --detach --queue --ttl --attach' -- "$cur")
            else
                mapfile -t COMPREPLY < <(compgen -W "$(_vmferry_guests)" -- "$cur")
            fi
            ;;
        cp)
            if [[ $cur == -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W '-r --recursive --preserve --overwrite --queue --ttl --detach' -- "$cur")
            elif [[ ${COMP_WORDS[*]:COMP_CWORD-2:2} == @(*' --overwrite'|'--overwrite =') ]]; then
                mapfile -t COMPREPLY < <(compgen -W 'replace fail update' -- "$cur")
            elif [[ $cur == *:* || ${COMP_WORDS[COMP_CWORD - 1]} == : ]]; then
                return # a path in the guest: COMP_WORDBREAKS has the colon, or has not
            elif [[ $cur != */* ]]; then
                mapfile -t COMPREPLY < <(compgen -W "$(_vmferry_guests)" -S : -- "$cur"; compgen -f -- "$cur")
                [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *: ]] && compopt -o nospace
            else
                mapfile -t COMPREPLY < <(compgen -f -- "$cur")
                compopt -o filenames
            fi
            ;;
        jobs) mapfile -t COMPREPLY < <(compgen -W '--all' -- "$cur") ;;
        cancel)
            mapfile -t COMPREPLY < <(compgen -W "$(vmferry "${bus[@]}" --json jobs 2>/dev/null |
                sed -n 's/.*"Id":\([0-9]*\).*/\1/p')" -- "$cur")
            ;;
        deploy)
            if [[ $cur == -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W '--agent= --backend=libguestfs --backend=nbd --dry-run --no-enable' -- "$cur")
                [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
            else
                mapfile -t COMPREPLY < <(compgen -f -W "$(_vmferry_guests)" -- "$cur")
                compopt -o filenames
            fi
            ;;
        actions) mapfile -t COMPREPLY < <(compgen -W 'check' -- "$cur") ;;
    esac
}
complete -F _vmferry vmferry
